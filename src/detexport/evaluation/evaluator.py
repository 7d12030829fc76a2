"""The interface of evaluators, and the run of a model over a loader."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from detexport.utils import comm

logger = logging.getLogger(__name__)
SECONDS_BETWEEN_LINES = 5.0


class DatasetEvaluator:
    """Base class: it receives each batch of inputs with the model's outputs, then computes the metrics."""

    def reset(self) -> None:
        """Forget all batches; called before a run."""

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """Take in the inputs of a batch, and the outputs of the model for them."""

    def evaluate(self) -> Any:
        """Return the metrics: numbers by task and name; None on processes other than the main one."""


class DatasetEvaluators(DatasetEvaluator):
    """Several evaluators as one.

    Args:
        evaluators: each receives all batches.
    """

    def __init__(self, evaluators: Sequence[DatasetEvaluator]) -> None:
        self._evaluators = list(evaluators)

    def reset(self) -> None:
        """Reset each evaluator."""
        for evaluator in self._evaluators:
            evaluator.reset()

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """Pass the batch to each evaluator."""
        for evaluator in self._evaluators:
            evaluator.process(inputs, outputs)

    def evaluate(self) -> dict[str, Any]:
        """Return the metrics of all evaluators.

        Raises:
            ValueError: two evaluators have the same task.
        """
        results: dict[str, Any] = {}
        for evaluator in self._evaluators:
            found = evaluator.evaluate()
            if not comm.is_main_process() or found is None:
                continue
            twice = sorted(results.keys() & found.keys())
            if twice:
                raise ValueError(f"several evaluators have the task {', '.join(twice)}")
            results |= found
        return results


def inference_on_dataset(
    model: Callable[[Any], Any],
    data_loader: Any,
    evaluator: DatasetEvaluator | Sequence[DatasetEvaluator] | None,
    callbacks: Mapping[str, Callable[[], Any]] | None = None,
) -> Any:
    """Run a model on all batches of a loader and evaluate its outputs.

    Args:
        model: called with a batch; a module runs in evaluation mode without gradients.
        data_loader: batches, with a length.
        evaluator: one or several; None runs the model alone.
        callbacks: ``on_start``, ``before_inference``, ``after_inference`` and ``on_end``.

    Returns:
        the metrics; an empty dict if there are none.
    """
    calls = dict(callbacks or {})
    unknown = sorted(calls.keys() - {"on_start", "before_inference", "after_inference", "on_end"})
    if unknown:
        raise ValueError(f"unknown callbacks {unknown}")
    if isinstance(evaluator, Sequence):
        evaluator = DatasetEvaluators(evaluator)
    evaluator = evaluator or DatasetEvaluators([])
    evaluator.reset()
    total, start = len(data_loader), time.perf_counter()
    said = start
    with inference_context(model), torch.no_grad():
        _call(calls, "on_start")
        for index, inputs in enumerate(data_loader):
            _call(calls, "before_inference")
            outputs = model(inputs)
            _call(calls, "after_inference")
            evaluator.process(inputs, outputs)
            now = time.perf_counter()
            if now - said > SECONDS_BETWEEN_LINES:
                said = now
                logger.info(
                    "inference: %d of %d batches, %.3f s each", index + 1, total, (now - start) / (index + 1)
                )
        _call(calls, "on_end")
    return evaluator.evaluate() or {}


def _call(callbacks: Mapping[str, Callable[[], Any]], name: str) -> None:
    if name in callbacks:
        callbacks[name]()


@contextmanager
def inference_context(model: Any) -> Iterator[None]:
    """Run the block with the model in evaluation mode, and restore its mode afterwards."""
    was_training = isinstance(model, nn.Module) and model.training
    if was_training:
        model.eval()
    try:
        yield
    finally:
        if was_training:
            model.train()
