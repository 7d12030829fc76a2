"""``DefaultTrainer``: a training by a configuration, under detectron2's names and arguments."""

import logging
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from detexport.checkpoint import DetectionCheckpointer
from detexport.config import CfgNode
from detexport.data.build import build_detection_test_loader, build_detection_train_loader
from detexport.engine import hooks
from detexport.engine.train_loop import AMPTrainer, HookBase, SimpleTrainer, TrainerBase, create_ddp_model
from detexport.errors import ConfigError, RuntimeUnavailableError
from detexport.evaluation import DatasetEvaluator, inference_on_dataset, print_csv_format, verify_results
from detexport.modeling import build_model
from detexport.solver import build_lr_scheduler, build_optimizer
from detexport.utils import comm
from detexport.utils.events import CommonMetricPrinter, EventWriter, JSONWriter, TensorboardXWriter

logger = logging.getLogger(__name__)


def default_writers(output_dir: str, max_iter: int | None = None) -> list[EventWriter]:
    """Return writers for the log, for ``metrics.json`` and, if tensorboard is installed, for TensorBoard.

    Args:
        output_dir: folder of the files; created if it does not exist.
        max_iter: iterations of the training.
    """
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    writers: list[EventWriter] = [CommonMetricPrinter(max_iter), JSONWriter(folder / "metrics.json")]
    try:
        writers.append(TensorboardXWriter(str(folder)))
    except RuntimeUnavailableError as error:
        logger.info("no TensorBoard files are written: %s", error)
    return writers


class DefaultTrainer(TrainerBase):
    """The training of detectron2's configurations: model, optimizer, loader, hooks and checkpoints.

    A subclass overrides the ``build_*`` methods. ``build_evaluator`` has no default. The weights of
    ``MODEL.WEIGHTS`` are loaded by ``resume_or_load``.

    Attributes:
        cfg: the configuration, scaled by ``auto_scale_workers``.
        scheduler: the learning rate schedule.
        checkpointer: saves and loads model, optimizer, schedule and iteration.

    Args:
        cfg: a configuration.
    """

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        model = create_ddp_model(model, broadcast_buffers=False)
        kind = AMPTrainer if cfg.SOLVER.AMP.ENABLED else SimpleTrainer
        self._trainer = kind(model, data_loader, optimizer)
        self._trainer.after_backward = self.after_backward  # type: ignore[method-assign]  # one list of hooks
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = DetectionCheckpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        if cfg.VIS_PERIOD and not hasattr(self.checkpointer.model, "vis_period"):
            name = type(self.checkpointer.model).__name__
            logger.warning("VIS_PERIOD has no effect: %s records no images in training", name)
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    @property
    def model(self) -> nn.Module:
        """The model in training."""
        return self._trainer.model

    @property
    def data_loader(self) -> Any:
        """The loader of training batches."""
        return self._trainer.data_loader

    @property
    def optimizer(self) -> Any:
        """The optimizer."""
        return self._trainer.optimizer

    def resume_or_load(self, resume: bool = True) -> None:
        """Load the last checkpoint of ``OUTPUT_DIR`` with its state, or the model from ``MODEL.WEIGHTS``.

        Args:
            resume: continue from the last checkpoint, if there is one.
        """
        self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        if resume and self.checkpointer.has_checkpoint():
            self.start_iter = self.iter + 1

    def build_hooks(self) -> list[HookBase | None]:
        """Return the hooks in the order in which they run."""
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.DATALOADER.NUM_WORKERS = 0  # a second loader of training data needs no processes of its own
        found: list[HookBase | None] = [hooks.IterationTimer(), hooks.LRScheduler()]
        if cfg.TEST.PRECISE_BN.ENABLED:
            # Statistics are exact before an evaluation uses them.
            loader, number = self.build_train_loader(cfg), cfg.TEST.PRECISE_BN.NUM_ITER
            found.append(hooks.PreciseBN(cfg.TEST.EVAL_PERIOD, self.model, loader, number))
        if comm.is_main_process():
            found.append(hooks.PeriodicCheckpointer(self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD))
        # A checkpoint is saved before an evaluation, which may fail.
        found.append(hooks.EvalHook(cfg.TEST.EVAL_PERIOD, self._test_and_keep))
        if comm.is_main_process():
            # Writers run last: they write what the other hooks record.
            found.append(hooks.PeriodicWriter(self.build_writers(), period=20))
        return found

    def _test_and_keep(self) -> Any:
        self._last_eval_results = self.test(self.cfg, self.model)
        return self._last_eval_results

    def build_writers(self) -> list[EventWriter]:
        """Return the writers of the recorded values: ``default_writers``."""
        return default_writers(self.cfg.OUTPUT_DIR, self.max_iter)

    def train(self) -> Any:  # type: ignore[override]
        """Train from the loaded iteration to ``SOLVER.MAX_ITER``.

        Returns:
            the metrics of the last evaluation, checked against ``TEST.EXPECTED_RESULTS``, in the main
            process; None without an evaluation.
        """
        super().train(self.start_iter, self.max_iter)
        results = getattr(self, "_last_eval_results", None)
        if results is None or not comm.is_main_process():
            return None
        if self.cfg.TEST.EXPECTED_RESULTS:
            verify_results(self.cfg, results)
        return results

    def run_step(self) -> None:
        """Run one iteration."""
        self._trainer.iter = self.iter
        self._trainer.run_step()

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the loop, the hooks and the trainer of the iterations."""
        return {**super().state_dict(), "_trainer": self._trainer.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load the state of ``state_dict``."""
        super().load_state_dict(state_dict)
        self._trainer.load_state_dict(state_dict["_trainer"])

    @classmethod
    def build_model(cls, cfg: CfgNode) -> Any:
        """Return the model in training mode: ``detexport.modeling.build_model``."""
        model = build_model(cfg)
        logger.info("model:\n%s", model)
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> Any:
        """Return the optimizer: ``detexport.solver.build_optimizer``."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: Any) -> Any:
        """Return the learning rate schedule: ``detexport.solver.build_lr_scheduler``."""
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        """Return training batches: ``detexport.data.build_detection_train_loader``."""
        return build_detection_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        """Return the images of a data set: ``detexport.data.build_detection_test_loader``."""
        return build_detection_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """Return the evaluator of a data set; a subclass defines it.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            f"{cls.__name__} has no evaluator; override build_evaluator, or give evaluators to test"
        )

    @classmethod
    def test(
        cls,
        cfg: CfgNode,
        model: nn.Module,
        evaluators: DatasetEvaluator | Sequence[DatasetEvaluator] | None = None,
    ) -> dict[str, Any]:
        """Evaluate a model on ``DATASETS.TEST``.

        Args:
            cfg: a configuration.
            model: the model.
            evaluators: one for each data set; by default those of ``build_evaluator``. A data set without
                one is logged and not evaluated.

        Returns:
            metrics by the name of the data set; those of a single data set alone.

        Raises:
            ConfigError: there are not as many evaluators as data sets.
        """
        if isinstance(evaluators, DatasetEvaluator):
            evaluators = [evaluators]
        names = cfg.DATASETS.TEST
        if evaluators is not None and len(evaluators) != len(names):
            raise ConfigError(
                "each data set needs its own evaluator",
                got=f"{len(evaluators)} evaluators for DATASETS.TEST: {list(names)}",
                expected=f"{len(names)}",
                remedy="give one evaluator for each data set",
            )
        results: dict[str, Any] = {}
        for index, name in enumerate(names):
            try:
                evaluator = cls.build_evaluator(cfg, name) if evaluators is None else evaluators[index]
            except NotImplementedError as error:
                logger.warning("%s is not evaluated: %s", name, error)
                results[name] = {}
                continue
            results[name] = inference_on_dataset(model, cls.build_test_loader(cfg, name), evaluator)
            if comm.is_main_process():
                logger.info("results of %s:", name)
                print_csv_format(results[name])
        return next(iter(results.values())) if len(results) == 1 else results

    @staticmethod
    def auto_scale_workers(cfg: CfgNode, num_workers: int) -> CfgNode:
        """Return the configuration for another number of processes than ``SOLVER.REFERENCE_WORLD_SIZE``.

        Batch size and learning rates are multiplied by the ratio, numbers of iterations are divided by it.
        A reference of 0, or of as many processes as there are, leaves the configuration as it is.

        Args:
            cfg: a configuration, which stays as it is.
            num_workers: number of processes.

        Raises:
            ConfigError: the batch cannot be shared equally among the reference's processes.
        """
        reference = cfg.SOLVER.REFERENCE_WORLD_SIZE
        if reference in (0, num_workers):
            return cfg
        if cfg.SOLVER.IMS_PER_BATCH % reference:
            raise ConfigError(
                "the images of a batch cannot be shared equally",
                got=f"SOLVER.IMS_PER_BATCH: {cfg.SOLVER.IMS_PER_BATCH}",
                expected=f"a multiple of SOLVER.REFERENCE_WORLD_SIZE: {reference}",
                remedy="correct SOLVER.IMS_PER_BATCH",
            )
        scale = num_workers / reference
        frozen = cfg.is_frozen()
        cfg = cfg.clone()
        cfg.defrost()
        solver, test = cfg.SOLVER, cfg.TEST

        def shorter(number: int) -> int:
            return round(number / scale)

        solver.IMS_PER_BATCH = round(solver.IMS_PER_BATCH * scale)
        solver.BASE_LR *= scale
        solver.MAX_ITER = shorter(solver.MAX_ITER)
        solver.WARMUP_ITERS = shorter(solver.WARMUP_ITERS)
        solver.STEPS = tuple(map(shorter, solver.STEPS))
        solver.CHECKPOINT_PERIOD = shorter(solver.CHECKPOINT_PERIOD)
        test.EVAL_PERIOD = shorter(test.EVAL_PERIOD)
        solver.REFERENCE_WORLD_SIZE = num_workers
        logger.info("the configuration is scaled from %d to %d processes", reference, num_workers)
        if frozen:
            cfg.freeze()
        return cfg
