import json

import pytest
import torch
from torch import nn

from detexport.checkpoint import load_weights, match_weights
from detexport.checkpoint.load import describe_parameters, model_shapes
from detexport.errors import CheckpointError


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1, bias=False))


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_all_parameters_and_buffers_are_loaded(model: nn.Module) -> None:
    wanted = {name: torch.full_like(t, 3) for name, t in state(model).items() if t.is_floating_point()}
    legacy = {
        "pixel_mean": torch.zeros(3),
        "pixel_std": torch.zeros(3),
        "proposal_generator.anchor_generator.cell_anchors.0": torch.zeros(3, 4),
    }
    report = load_weights(model, {**wanted, **legacy})
    assert report.complete
    assert report.loaded == tuple(sorted(wanted))
    assert report.ignored_keys == tuple(sorted(legacy))
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in wanted.items())
    assert json.loads(json.dumps(report.to_json()))["missing_keys"] == []


def test_counters_of_batch_norms_are_ignored(model: nn.Module) -> None:
    assert not any("num_batches_tracked" in name for name in model_shapes(model))
    assert load_weights(model, state(model)).ignored_keys == ("1.num_batches_tracked",)


def test_half_precision_is_converted_to_the_models_dtype(model: nn.Module) -> None:
    load_weights(
        model, {name: torch.full_like(t, 0.5, dtype=torch.float16) for name, t in state(model).items()}
    )
    assert model[0].weight.dtype == torch.float32
    assert model[0].weight.unique().tolist() == [0.5]


def test_all_mismatches_are_reported_and_nothing_is_loaded(model: nn.Module) -> None:
    before = state(model)
    given = {name: tensor + 1 for name, tensor in before.items()}
    del given["0.bias"]
    given["2.weight"] = torch.zeros(5, 4, 1, 1)
    given["head.weight"] = torch.zeros(1)
    with pytest.raises(CheckpointError) as caught:
        load_weights(model, given, source="model_final.pth")
    message = str(caught.value)
    for part in ("model_final.pth", "1 missing: 0.bias", "1 unexpected: head.weight"):
        assert part in message
    assert "1 of another shape: 2.weight [5, 4, 1, 1] instead of [2, 4, 1, 1]" in message
    after = state(model)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_long_lists_are_shortened_with_a_count() -> None:
    shapes = {f"layer{i}": [1] for i in range(9)}
    fitting, report = match_weights({}, shapes)
    assert fitting == {}
    assert len(report.missing_keys) == 9
    with pytest.raises(CheckpointError, match=r"9 missing: layer0, .*layer4 and 4 more"):
        report.raise_if_incomplete("x")


def test_new_parameters_need_not_match(model: nn.Module) -> None:
    before = state(model)
    given = {name: tensor + 1 for name, tensor in before.items() if name != "0.bias"}
    given["2.weight"] = torch.zeros(5, 4, 1, 1)
    with pytest.raises(CheckpointError, match="new_parameters"):
        load_weights(model, given, new_parameters=["0.*"])
    report = load_weights(model, given, new_parameters=["0.*", "2.weight"])
    assert report.complete
    assert report.new_keys == ("0.bias", "2.weight")
    assert "2 new, left at their initial values: 0.bias, 2.weight" in report.describe()
    after = state(model)
    assert torch.equal(after["0.bias"], before["0.bias"])
    assert torch.equal(after["2.weight"], before["2.weight"])
    # A matching tensor is loaded even if it may be new.
    assert torch.equal(after["0.weight"], before["0.weight"] + 1)


def test_unexpected_names_are_not_new_parameters(model: nn.Module) -> None:
    given = {**state(model), "head.weight": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"1 unexpected: head\.weight"):
        load_weights(model, given, new_parameters=["*"])


def test_new_parameters_that_the_model_lacks_are_refused(model: nn.Module) -> None:
    with pytest.raises(CheckpointError, match=r"matches no parameter of the model; got: roi_heads\.\*"):
        load_weights(model, state(model), new_parameters=["0.*", "roi_heads.*"])


def test_loading_without_strict_reports_all_mismatches(model: nn.Module) -> None:
    given = {name: tensor + 1 for name, tensor in state(model).items() if name != "0.bias"}
    given |= {"2.weight": torch.zeros(5, 4, 1, 1), "head.weight": torch.zeros(1)}
    report = load_weights(model, given, strict=False)
    assert not report.complete
    assert report.missing_keys == ("0.bias",)
    assert report.unexpected_keys == ("head.weight",)
    assert report.mismatched_keys == {"2.weight": ([5, 4, 1, 1], [2, 4, 1, 1])}
    assert torch.equal(model[0].weight, given["0.weight"])


def test_a_file_without_any_match_is_refused(model: nn.Module) -> None:
    with pytest.raises(CheckpointError, match="1 unexpected: elsewhere"):
        load_weights(model, {"elsewhere": torch.zeros(1)}, strict=False)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (torch.full((4,), float("nan")), "0.bias has 4 values of 4 that are NaN or infinite"),
        (torch.tensor([1.0, 2.0, 3.0, float("inf")]), "0.bias has 1 values of 4 that are NaN or infinite"),
        (
            torch.full((4,), 1e300, dtype=torch.float64),
            "0.bias has 4 values of 4 out of the range of float32",
        ),
        (torch.ones(4, dtype=torch.complex64), "0.bias is complex64, expected float32"),
        (torch.ones(4, dtype=torch.bool), "0.bias is bool, expected float32"),
        (torch.ones(4, dtype=torch.int64), "0.bias is int64, expected float32"),
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_unusable_values_are_refused_by_name(
    model: nn.Module, value: torch.Tensor, problem: str, strict: bool
) -> None:
    before = state(model)
    with pytest.raises(CheckpointError, match=f"1 unusable: {problem}"):
        load_weights(model, {**before, "0.weight": before["0.weight"] + 1, "0.bias": value}, strict=strict)
    assert torch.equal(model[0].weight, before["0.weight"])
    report = load_weights(model, {**before, "0.bias": value}, new_parameters=["0.bias"])
    assert report.new_keys == ("0.bias",)


def test_conversions_are_reported(model: nn.Module) -> None:
    given = {**state(model), "0.bias": torch.ones(4, dtype=torch.float16)}
    given["0.weight"] = given["0.weight"].double()
    report = load_weights(model, given)
    assert report.converted_keys == {"0.bias": "float16", "0.weight": "float64"}
    assert report.describe() == "1 converted from float16: 0.bias; 1 converted from float64: 0.weight"
    assert match_weights(given, model_shapes(model))[0]["0.weight"].dtype == torch.float32


class Head(nn.Linear):
    def __init__(self) -> None:
        super().__init__(2, 2)
        self.register_buffer("order", torch.tensor([1, 0]))

    @classmethod
    def training_buffers(cls) -> tuple[str, ...]:
        return ("class_frequencies",)


def test_training_state_is_reported_and_left_out() -> None:
    model = nn.Sequential(Head())
    training = {
        "0.class_frequencies": torch.ones(7),  # declared by the module
        "0.fed_loss_cls_weights": torch.ones(7),
        "criterion.empty_weight": torch.ones(3),
        "loss_normalizer": torch.tensor(100.0),
        "ema_decay": torch.tensor(0.999),
        "ema.num_updates": torch.tensor(7),
        "n_averaged": torch.tensor(7),
        "queue": torch.zeros(16, 128),
        "queue_ptr": torch.tensor([3]),
        "step": torch.tensor(3),
    }
    report = load_weights(model, {**state(model), **training})
    assert report.complete
    assert report.training_keys == tuple(sorted(training))
    assert "10 of training state, which inference does not read: 0.class_frequencies," in report.describe()
    assert report.to_json()["training_keys"] == tuple(sorted(training))


def test_torchs_averaged_model_is_read_as_the_model() -> None:
    model = nn.Sequential(Head())
    averaged = torch.optim.swa_utils.AveragedModel(model)
    report = load_weights(nn.Sequential(Head()), averaged.state_dict())
    assert report.loaded == ("0.bias", "0.order", "0.weight")
    assert report.training_keys == ("n_averaged",)


@pytest.mark.parametrize(
    "name", ["extra.weight", "0.lossless.weight", "ema.backbone.weight", "queue", "3.running_mean", "scale"]
)
def test_unexpected_weights_are_still_refused(model: nn.Module, name: str) -> None:
    with pytest.raises(CheckpointError, match=f"1 unexpected: {name}"):
        load_weights(model, {**state(model), name: torch.ones(3)})
    with pytest.raises(CheckpointError, match=r"1 unexpected: 0\.qweight"):
        load_weights(model, {**state(model), "0.qweight": torch.ones(3, 3, dtype=torch.int32)})


def test_integer_buffers_stay_integers() -> None:
    model = nn.Sequential(Head())
    parameters = describe_parameters(model)
    assert parameters["dtypes"] == {"0.order": "int64"}
    assert parameters["training_buffers"] == ["0.class_frequencies"]
    assert json.loads(json.dumps(parameters)) == parameters
    given = {**state(model), "0.order": torch.tensor([0, 1], dtype=torch.int32)}
    assert match_weights(given, **parameters)[0]["0.order"].dtype == torch.int64
    with pytest.raises(CheckpointError, match=r"0\.order is float32, expected int64"):
        load_weights(model, {**given, "0.order": torch.zeros(2)})


def test_the_remedy_names_the_callers_option(model: nn.Module) -> None:
    with pytest.raises(CheckpointError, match="remedy: correct --allow-new"):
        match_weights(state(model), model_shapes(model), ["none"], option="--allow-new")
    _, report = match_weights({}, model_shapes(model))
    with pytest.raises(CheckpointError, match="are meant to be new in --allow-new"):
        report.raise_if_incomplete("x", option="--allow-new")
