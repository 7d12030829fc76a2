"""A tiny training run on two images."""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from detexport.checkpoint import load_weights
from detexport.config.cfg import load_cfg
from detexport.data.coco import CocoDataset, load_coco
from detexport.data.mapping import GroundTruth, training_example
from detexport.engine.training import (
    TrainingHooks,
    TrainingSettings,
    launch,
    seed_everything,
    train,
)
from detexport.errors import REQUEST, ConfigError, DataError, DivergedError
from detexport.modeling import build_model
from detexport.registry.store import RegistryError
from synthetic_shapes import synthetic_shapes

TRUTH = GroundTruth(masks=True)
CONFIG = Path(__file__).parents[2] / "conf/detectron2/mask_rcnn.yaml"
SETTINGS = TrainingSettings(
    iterations=25,
    batch_size=2,
    learning_rate=0.002,
    warmup_iterations=5,
    weight_decay=0.05,
    gradient_norm=5.0,
    average_decay=0.5,
    flip=False,
    seed=0,
    threads=1,
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Use one thread: for maps this small a second one is slower if other processes use the CPU."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> CocoDataset:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    synthetic_shapes(train_images=2, val_images=0, sizes=((96, 96),), max_objects=3).write(folder)
    return load_coco(folder, "train")


def new_model(seed: int = 0) -> Any:
    seed_everything(seed)
    return build_model(load_cfg(CONFIG))


def examples(dataset: CocoDataset) -> list[dict[str, Any]]:
    return [training_example(record, "RGB", TRUTH) for record in dataset.images]


def total(losses: dict[str, torch.Tensor]) -> float:
    return float(sum(losses.values()))


def loss_of(model: Any, dataset: CocoDataset) -> float:
    model.train()
    seed_everything(1)
    with torch.no_grad():
        return total(model(examples(dataset)))


def test_two_images_are_overfitted(dataset: CocoDataset) -> None:
    model = new_model()
    before = loss_of(model, dataset)
    averaged = train(model, dataset, SETTINGS, TRUTH).weights
    after = loss_of(model, dataset)
    assert after < 0.7 * before
    assert not any(name.endswith("num_batches_tracked") for name in averaged)
    assert all(torch.isfinite(value).all() for value in averaged.values())
    # The averaged weights fit the model and differ from those of the last step.
    assert load_weights(new_model(), averaged).complete
    assert any(not torch.equal(averaged[name], value) for name, value in model.named_parameters())


def test_gradients_reach_every_trainable_parameter(dataset: CocoDataset) -> None:
    model = new_model().train()
    losses = model(examples(dataset))
    assert set(losses) == {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask"}
    sum(losses.values()).backward()
    without = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.any())
    ]
    assert without == []


@pytest.mark.parametrize("empty", [[0], [0, 1]], ids=["one of two", "all"])
def test_images_without_instances_have_finite_losses(dataset: CocoDataset, empty: list[int]) -> None:
    batch = examples(dataset)
    for index in empty:
        batch[index]["instances"] = batch[index]["instances"][:0]
    model = new_model().train()
    losses = model(batch)
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert losses["loss_rpn_cls"] > 0
    assert losses["loss_cls"] > 0
    assert (losses["loss_mask"] > 0) == (len(empty) == 1)
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_the_seed_determines_the_result(dataset: CocoDataset) -> None:
    settings = replace(SETTINGS, iterations=2, flip=True)
    first, second, other = (train(new_model(seed), dataset, settings, TRUTH).weights for seed in (0, 0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_a_data_set_without_annotations(dataset: CocoDataset) -> None:
    bare = replace(dataset, images=tuple(replace(record, annotations=()) for record in dataset.images))
    with pytest.raises(DataError, match="no annotated image"):
        train(new_model(), bare, SETTINGS, TRUTH)


def test_images_of_too_few_keypoints_are_left_out(dataset: CocoDataset) -> None:
    truth = GroundTruth(keypoints=True, min_keypoints=1)
    with pytest.raises(DataError, match="none with an annotation of the classes and 1 labelled keypoints"):
        train(new_model(), dataset, SETTINGS, truth)


def test_training_needs_a_loss_that_is_finite(dataset: CocoDataset) -> None:
    model = new_model()
    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.bias[0] = torch.nan
    with pytest.raises(DivergedError, match=r"got: loss nan .* at step 0;.*lower learning_rate") as caught:
        train(model, dataset, SETTINGS, TRUTH)
    assert caught.value.exit_code == REQUEST  # the same request fails again


def test_a_model_may_refuse_what_is_not_finite_itself(
    dataset: CocoDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Any) -> None:
        raise FloatingPointError("the proposals are not finite")

    model = new_model()
    monkeypatch.setattr(model, "forward", refuse)
    with pytest.raises(DivergedError, match="got: the proposals are not finite at step 0"):
        train(model, dataset, SETTINGS, TRUTH)


def test_the_default_recipe_is_a_plain_loop(dataset: CocoDataset) -> None:
    """AdamW with a cosine, the gradient's norm limited, and a moving average: to the last bit."""
    settings = replace(SETTINGS, iterations=4, warmup_iterations=2, average_decay=0.9)
    trained = train(new_model(), dataset, settings, TRUTH).weights
    model = new_model().train()
    decayed = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    others = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}], lr=0.002
    )
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    order, generator = list(dataset.images), random.Random(settings.seed)
    for factor in (0.5, 1.0, 1.0, 0.5):
        generator.shuffle(order)
        for group in optimizer.param_groups:
            group["lr"] = 0.002 * factor
        loss = sum(model([training_example(record, "RGB", TRUTH) for record in order]).values())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decayed + others, 5.0)
        optimizer.step()
        average.update_parameters(model)
    plain = average.module.state_dict()
    assert all(torch.equal(value, plain[name]) for name, value in trained.items())


def test_early_stopping_returns_the_best_weights(dataset: CocoDataset) -> None:
    scores = iter([0.1, 0.5, 0.4, 0.3, 0.9])
    evaluated: list[dict[str, torch.Tensor]] = []
    logged: list[Any] = []

    def evaluate(model: Any) -> dict[str, float]:
        assert not model.training
        evaluated.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"segm/AP": -1.0, "bbox/AP": next(scores)}

    settings = replace(
        SETTINGS, iterations=9, evaluation_period=1, patience=2, average_decay=None, log_period=3
    )
    model = new_model()
    trained = train(model, dataset, settings, TRUTH, TrainingHooks(evaluate, log=logged.extend))
    best = trained.weights
    assert trained.steps == len(evaluated) == 4
    assert model.training
    assert all(torch.equal(value, evaluated[1][name]) for name, value in best.items())
    measured = [(step, values["bbox/AP"]) for step, values in logged if "bbox/AP" in values]
    assert measured == [(1, 0.1), (2, 0.5), (3, 0.4), (4, 0.3)]
    assert [step for step, values in logged if "loss" in values] == [3]


def test_a_state_is_used_by_the_same_training_alone(dataset: CocoDataset, tmp_path: Path) -> None:
    steps: list[int] = []

    def run(key: str, **changes: Any) -> dict[str, torch.Tensor]:
        hooks = TrainingHooks(
            start=lambda: steps.append(0),
            log=lambda measured: steps.extend(step for step, _ in measured),
            state_file=tmp_path / "state.pt",
            key=key,
        )
        settings = replace(SETTINGS, iterations=3, flip=True, log_period=1, **changes)
        return train(new_model(), dataset, settings, TRUTH, hooks).weights

    first = run("a")
    assert steps == [0, 1, 2, 3]
    again = run("a", checkpoint_period=1)  # finished: nothing is left to do but to log what was not, maybe
    assert steps == [0, 1, 2, 3, 1, 2, 3]
    assert all(torch.equal(first[name], again[name]) for name in first)
    run("b")
    assert steps[7:] == [0, 1, 2, 3]
    run("b", learning_rate=0.001)
    assert steps[11:] == [0, 1, 2, 3]


def test_a_log_that_fails_costs_no_step(dataset: CocoDataset, tmp_path: Path) -> None:
    logged: list[Any] = []
    works = False

    def log(measured: Any) -> None:
        if not works:
            raise RegistryError("the registry cannot be used")
        logged.extend(measured)

    def run(start: Any = None) -> dict[str, torch.Tensor]:
        hooks = TrainingHooks(start=start, log=log, state_file=tmp_path / "state.pt")
        settings = replace(SETTINGS, iterations=3, log_period=1, checkpoint_period=2)
        return train(new_model(), dataset, settings, TRUTH, hooks).weights

    def refuse() -> None:
        raise RegistryError("the password is wrong")

    with pytest.raises(RegistryError, match="password"):
        run(refuse)
    assert not (tmp_path / "state.pt").exists()  # before the first step
    with pytest.raises(RegistryError, match="cannot be used"):
        run()
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 2
    works = True
    run()
    assert [step for step, _ in logged] == [1, 2, 3]


@pytest.mark.parametrize("changes", [{"precision": "bf16-mixed"}, {"schedule": "WarmupMultiStepLR"}])
def test_other_settings_train(dataset: CocoDataset, changes: dict[str, Any]) -> None:
    settings = replace(SETTINGS, iterations=3, optimizer="sgd", average_decay=None, workers=1)
    plain, other = (
        train(new_model(), dataset, one, TRUTH).weights for one in (settings, replace(settings, **changes))
    )
    assert all(value.dtype == plain[name].dtype for name, value in other.items())
    assert all(torch.isfinite(value).all() for value in other.values())
    assert any(not torch.equal(value, plain[name]) for name, value in other.items())


@pytest.mark.parametrize(
    "changes",
    [
        {"accelerator": "tpu"},
        {"accelerator": "gpus"},
        {"devices": 0},
        pytest.param(
            {"accelerator": "cuda"},
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_devices_that_are_not_there(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="the devices of the training are not available"):
        launch(replace(SETTINGS, **changes))
