"""Other runs of the eager model: which there are, what each changes, how many an input is run in."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detexport.contract import DETECTION_OUTPUTS
from detexport.errors import DataError
from detexport.parity.eager_variants import (
    CPU_VARIANTS,
    CUDA_VARIANTS,
    FURTHER_RUNS,
    OWN_RUNS,
    channels_last,
    many_threads,
    measure_noise_floor,
    measured_noise,
    most_threads,
    repeated,
    variants,
)
from detexport.parity.noise_floor import NoiseFloor
from detexport.reference.eager_outputs import run_eager
from detexport.reference.image_ops import noise
from detexport.reference.store import Reference, SampleMeta, read_reference, write_reference
from detexport.structures import Boxes, Instances
from tiny_artifacts import tiny_contract
from tolerances import TOLERANCE

CONTRACT = tiny_contract(outputs=DETECTION_OUTPUTS)
SIZE = (24, 32)


class Chooses(nn.Module):
    """Returns two of three boxes, by scores that follow from the image; of equal scores topk decides."""

    def __init__(self, offsets: tuple[float, float, float]) -> None:
        super().__init__()
        self.offsets = nn.Parameter(torch.tensor(offsets))
        self.layer = nn.Conv2d(3, 3, 3)
        self.calls: list[int] = []

    def forward(self, examples: list[dict[str, Any]]) -> list[dict[str, Any]]:
        self.calls.append(len(examples))
        return [{"instances": self.detect(example["image"])} for example in examples]

    def detect(self, image: Tensor) -> Instances:
        scores, order = (0.9 + 0 * image.float().mean() + self.offsets).topk(2)
        lefts = torch.tensor([0.0, 10.0, 20.0])[order]
        boxes = torch.stack([lefts, torch.zeros(2), lefts + 8, torch.full((2,), 20.0)], 1)
        classes = torch.zeros(2, dtype=torch.int64)
        return Instances(SIZE, pred_boxes=Boxes(boxes), scores=scores, pred_classes=classes)


APART, TIED = (0.0, -0.1, -0.2), (0.0, 0.0, 0.0)


def stored(net: nn.Module, folder: Path, batches: tuple[str, ...] = ("",)) -> Reference:
    def samples() -> Iterator[Any]:
        for index, batch in enumerate(batches):
            image = noise(SIZE, seed=index)
            meta = SampleMeta(f"{index}", index, "", SIZE, SIZE, 1.0, batch=batch)
            yield meta, image, run_eager(net, image, SIZE, CONTRACT)

    write_reference(folder / "reference", samples(), contract=CONTRACT, environment={})
    return read_reference(folder / "reference")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_variant_leaves_the_model_and_the_process_as_they_were() -> None:
    net = Chooses(APART)
    with repeated(net) as same:
        assert same is net
    with many_threads(net) as other:
        assert (other, torch.get_num_threads()) == (net, most_threads())
    assert torch.get_num_threads() == 1
    with channels_last(net) as copied:
        assert copied.layer.weight.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(copied.layer.weight, net.layer.weight)
    assert net.layer.weight.is_contiguous()


def test_threads_are_restored_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), many_threads(Chooses(APART)):
        raise ZeroDivisionError
    assert torch.get_num_threads() == 1


def noise_of(net: Chooses, reference: Reference) -> Any:
    net.calls.clear()
    return measured_noise(net, CONTRACT, TOLERANCE)(reference.samples)


def test_runs_that_agree_are_few(tmp_path: Path) -> None:
    net = Chooses(APART)
    (noise,) = noise_of(net, stored(net, tmp_path)).values()
    assert (noise.undetermined, noise.scores, noise.counts) == ((), (), (2, 2))
    assert len(net.calls) == len(OWN_RUNS) - 1  # the copy in another memory format keeps its own count


def test_an_input_on_which_the_runs_disagree_is_run_in_more_of_them(tmp_path: Path) -> None:
    """Of three equal scores each run keeps any two."""
    net = Chooses(TIED)
    (noise,) = noise_of(net, stored(net, tmp_path)).values()
    assert noise.undetermined
    assert noise.scores == pytest.approx((0.9,))
    assert len(net.calls) == len(OWN_RUNS) - 1 + len(FURTHER_RUNS)
    assert not OWN_RUNS.keys() & FURTHER_RUNS.keys()


def test_images_of_a_batch_are_run_in_one_call(tmp_path: Path) -> None:
    net = Chooses(APART)
    reference = stored(net, tmp_path, ("1", "1"))
    assert noise_of(net, reference).keys() == {"0", "1"}
    assert set(net.calls) == {2}


def test_a_floor_needs_an_image_that_was_run_alone(tmp_path: Path) -> None:
    net = Chooses(APART)
    with pytest.raises(DataError, match=r"no sample of one image; .*remedy: run the stage"):
        measure_noise_floor(net, CONTRACT, stored(net, tmp_path, ("1", "1")), TOLERANCE, 4)


def test_a_floor_has_the_noise_of_every_input_and_few_of_the_variants(tmp_path: Path) -> None:
    net = Chooses(APART)
    floor = measure_noise_floor(net, CONTRACT, stored(net, tmp_path, ("", "", "", "1")), TOLERANCE, 2)
    assert len(floor.samples) == 2
    assert floor.noise.keys() == {"0", "1", "2", "3"}
    assert floor.variants.keys() == variants().keys()
    assert floor.environment["threads"] == most_threads()


def test_the_variants_are_those_of_the_machine() -> None:
    assert most_threads() >= 2
    on_this = {**CPU_VARIANTS, **(CUDA_VARIANTS if torch.cuda.is_available() else {})}
    assert variants() == on_this


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_tf32_is_set_for_its_variant_alone() -> None:
    model = Chooses(APART)
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    for name, wanted in (("cuda", False), ("cuda_tf32", True)):
        with CUDA_VARIANTS[name](model) as moved:
            assert torch.backends.cudnn.allow_tf32 is torch.backends.cuda.matmul.allow_tf32 is wanted
            assert moved.offsets.device.type == "cuda"
        assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == before
    assert model.offsets.device.type == "cpu"


@pytest.mark.parametrize(("difference", "affordable"), [(0.001, True), (-0.003, False)])
def test_another_precision_is_evaluated_and_no_part_of_the_floor(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    difference: float,
    affordable: bool,
) -> None:
    """Another memory format stands in for TF32, which takes a GPU."""
    monkeypatch.setattr("detexport.parity.eager_variants.NO_NOISE", ("channels_last",))
    model, evaluated = Chooses(APART), []

    def evaluate(other: Any) -> dict[str, float]:
        evaluated.append(other)
        return {"bbox/AP": difference}

    reference = stored(model, tmp_path)
    floor = measure_noise_floor(model, CONTRACT, reference, TOLERANCE, 1, evaluate=evaluate, budget=0.002)
    assert len(evaluated) == 1
    assert evaluated[0] is not model
    assert {name: variant.affordable for name, variant in floor.variants.items() if not variant.counts} == {
        "channels_last": affordable
    }
    assert floor.variants["threads"].affordable is None
    assert NoiseFloor.from_json(json.loads(json.dumps(floor.to_json()))) == floor
