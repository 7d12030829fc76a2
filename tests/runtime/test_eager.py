"""What a loaded artifact takes as the eager model does, what it refuses, batches, memory that is short."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detexport.artifact import read_artifact
from detexport.contract import MAX_SIDE
from detexport.errors import ArtifactError, DetexportError, InputError, OutOfMemoryError, memory_guard
from detexport.runtime import Runtime, load
from detexport.runtime.torchscript import TorchScript, TorchScriptSession
from detexport.structures import Boxes, Instances
from tiny_artifacts import tiny_image
from tiny_models import CONTRACTS, TinyModel, write_tiny_pasted

IMAGE = torch.from_numpy(tiny_image())
ARTIFACTS = ["tiny_onnx", "tiny_scripting", "tiny_tracing"]


@pytest.fixture(scope="module", params=ARTIFACTS)
def runtime(request: pytest.FixtureRequest) -> Runtime:
    return load(request.getfixturevalue(request.param))


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    fields, others = one["instances"].get_fields(), other["instances"].get_fields()
    assert one["instances"].image_size == other["instances"].image_size
    assert fields.keys() == others.keys()
    for name, value in fields.items():
        assert torch.equal(getattr(value, "tensor", value), getattr(others[name], "tensor", others[name])), (
            name
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.int32, torch.int64])
def test_the_same_values_in_another_dtype_give_the_same(runtime: Runtime, dtype: torch.dtype) -> None:
    (expected,), (found,) = runtime([{"image": IMAGE}]), runtime([{"image": IMAGE.to(dtype)}])
    assert len(expected["instances"]) == 3
    assert_same(found, expected)


def test_views_and_tensors_with_a_gradient_are_taken(runtime: Runtime) -> None:
    channels_last = IMAGE.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    (expected,) = runtime([{"image": IMAGE}])
    for image in (channels_last, IMAGE.float().requires_grad_(), IMAGE.flip(2).flip(2)):
        assert_same(runtime([{"image": image}])[0], expected)


def test_what_a_mapped_record_carries_is_not_looked_at(runtime: Runtime) -> None:
    record = {
        "image": IMAGE,
        "file_name": "a",
        "image_id": 1,
        "instances": Instances((30, 50)),
        "sem_seg": None,
    }
    assert_same(runtime([record])[0], runtime([{"image": IMAGE}])[0])


PROPOSALS = Instances((30, 50), proposal_boxes=Boxes([[1, 2, 3, 4]]))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "at least one image; got: none"),
        (None, "at least one image; got: NoneType"),
        ({"image": IMAGE}, "at least one image; got: dict"),
        ([IMAGE], "input 0 has no image; got: Tensor"),
        ([{"picture": IMAGE}], r"input 0 has no image; got: keys \['picture'\]"),
        ([{"image": IMAGE}, {"image": IMAGE.numpy()}], "input 1 has no image; got: ndarray"),
        ([{"image": IMAGE[0]}], r"image 0 has a wrong shape; got: \(30, 50\)"),
        ([{"image": IMAGE[None]}], r"got: \(1, 3, 30, 50\)"),
        ([{"image": IMAGE.permute(1, 2, 0)}], r"got: \(30, 50, 3\); expected: \(3, height, width\)"),
        ([{"image": IMAGE[:1]}], r"got: \(1, 30, 50\)"),
        ([{"image": IMAGE[:, :0]}], r"got: \(3, 0, 50\)"),
        ([{"image": IMAGE > 9}], "has an unsupported dtype; got: torch.bool"),
        ([{"image": IMAGE.float() * torch.nan}], "not finite"),
        ([{"image": IMAGE.float() / 255}], "cannot take; got: torch.float32 from 0.*whole numbers 0..255"),
        ([{"image": IMAGE.int() + 200}], "cannot take; got: torch.int32"),
        ([{"image": IMAGE.float() - 120}], "cannot take; got: torch.float32 from -"),
        (
            [{"image": IMAGE, "proposals": PROPOSALS}],
            "got: proposals; .*computes its proposals",
        ),
        ([{"image": IMAGE, "hieght": 4, "width": 4}], "not exported for; got: hieght"),
        ([{"image": IMAGE, "score_threshold": 0.5}], "got: score_threshold; expected: image, height, width"),
        ([{"image": IMAGE, "height": 30}], "both height and width .*, or neither; got: height: 30"),
        ([{"image": IMAGE, "height": 0, "width": 5}], "got: height: 0, width: 5; expected: two positive"),
        ([{"image": IMAGE, "height": -3, "width": 5}], "got: height: -3"),
        ([{"image": IMAGE, "height": 3.5, "width": 5}], "got: height: 3.5"),
        ([{"image": IMAGE, "height": 5, "width": MAX_SIDE + 1}], f"at most {MAX_SIDE}"),
    ],
)
def test_what_the_graph_was_not_exported_for_is_refused(runtime: Runtime, inputs: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        runtime(inputs)


@pytest.mark.parametrize("name", ARTIFACTS)
def test_sides_beyond_those_that_the_artifact_states_are_refused(
    name: str, request: pytest.FixtureRequest
) -> None:
    session = load(request.getfixturevalue(name)).session
    narrow: Any = session
    narrow = Runtime(replace(narrow, artifact=replace(session.artifact, image_sides=(30, 50))))
    assert len(narrow([{"image": IMAGE}])) == 1
    for image in (IMAGE[:, 1:], torch.cat([IMAGE, IMAGE[:, :, :1]], dim=2)):
        with pytest.raises(ArtifactError, match=r"sides of 30 to 50 px"):
            narrow([{"image": image}])


def test_the_sides_are_in_the_manifest(tiny_onnx: Path) -> None:
    assert read_artifact(tiny_onnx).image_sides == (1, MAX_SIDE)


def test_a_size_that_no_output_has_is_refused(tmp_path: Path) -> None:
    write_tiny_pasted(tmp_path / "a", CONTRACTS["everything"])
    session = TorchScript().open(tmp_path / "a")
    for size in ((0, 5), (5, -1), (MAX_SIDE + 1, 5)):
        with pytest.raises(ArtifactError, match="invalid output size"):
            session(tiny_image(), size)


def test_a_changed_file_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    artifact = write_tiny_pasted(tmp_path / "a", CONTRACTS["everything"])
    path = tmp_path / "a" / artifact.main_file
    path.write_bytes(b"not even a model")
    with pytest.raises(ArtifactError, match="is not the file that was exported"):
        load(tmp_path / "a")


# Batches


@pytest.mark.parametrize("name", ARTIFACTS)
def test_images_of_different_sizes_give_what_each_gives_alone(
    name: str, request: pytest.FixtureRequest
) -> None:
    """The tiny graphs pad nothing, so that a batch changes nothing."""
    runtime = load(request.getfixturevalue(name))
    examples = [
        {"image": IMAGE},
        {"image": torch.from_numpy(tiny_image(41, 23)), "height": 80, "width": 50},
        {"image": torch.from_numpy(tiny_image(20, 20, (10, 10, 10)))},
    ]
    for found, example in zip(runtime(examples), examples, strict=True):
        assert_same(found, runtime([example])[0])


class Counting(torch.nn.Module):
    """Counts the calls of a graph."""

    def __init__(self, graph: torch.nn.Module) -> None:
        super().__init__()
        self.graph = graph
        self.calls = 0

    def forward(self, *inputs: Any) -> Any:
        self.calls += 1
        return self.graph(*inputs)


@pytest.mark.parametrize(("name", "calls"), [("tiny_scripting", 1), ("tiny_tracing", 3)])
def test_a_list_takes_one_call_where_the_batch_is_free(
    name: str, calls: int, request: pytest.FixtureRequest
) -> None:
    session: Any = load(request.getfixturevalue(name)).session
    counting = Counting(session.module)
    runtime = Runtime(replace(session, module=counting))
    assert len(runtime([{"image": IMAGE}] * 3)) == 3
    assert counting.calls == calls


def test_pasted_results_of_a_batch_come_in_the_size_of_each(tmp_path: Path) -> None:
    contract = CONTRACTS["everything"]
    artifact = write_tiny_pasted(tmp_path / "a", contract)
    from detexport.export.graph_end import batch_graph

    scripted = torch.jit.script(batch_graph(TinyModel(contract), artifact.contract))
    batched = Runtime(TorchScriptSession(replace(artifact, batch="any"), "cpu", scripted))
    single = load(tmp_path / "a")
    examples = [
        {"image": IMAGE, "height": 60, "width": 100},
        {"image": torch.from_numpy(tiny_image(41, 23)), "height": 80, "width": 50},
        {"image": IMAGE},
    ]
    for found, example in zip(batched(examples), examples, strict=True):
        (expected,) = single([example])
        size = (example.get("height", 30), example.get("width", 50))
        assert found["instances"].pred_masks.shape[1:] == size
        assert found["panoptic_seg"][1] == expected["panoptic_seg"][1]
        assert torch.equal(found["instances"].pred_masks, expected["instances"].pred_masks)
        torch.testing.assert_close(found["sem_seg"], expected["sem_seg"])


# Memory

SHORT_OF_MEMORY = """
import resource, sys, torch
from detexport.errors import DetexportError
from detexport.runtime import load
runtime = load(sys.argv[1])
small = [{"image": torch.full((3, 40, 30), 200, dtype=torch.uint8)}]
count = len(runtime(small)[0]["instances"])
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
image = torch.full((3, 6000, 6000), 200, dtype=torch.uint8)
resource.setrlimit(resource.RLIMIT_AS, (used + 350_000_000, resource.RLIM_INFINITY))
for inputs in ([{"image": image}], [{"image": small[0]["image"], "height": 60_000, "width": 60_000}]):
    try:
        runtime(inputs)
    except DetexportError as error:
        print(type(error).__name__, error)
    assert len(runtime(small)[0]["instances"]) == count == 3
print("usable afterwards")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits a process's memory as Linux does")
@pytest.mark.parametrize("name", ARTIFACTS)
def test_an_image_larger_than_memory_is_an_error_and_the_next_one_runs(
    name: str, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(name)
    done = subprocess.run(
        [sys.executable, "-c", SHORT_OF_MEMORY, str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    image, output, usable = done.stdout.splitlines()
    assert image.startswith(
        "OutOfMemoryError there is not enough memory for this; got: image 3 x 6000 x 6000"
    )
    assert output.startswith("OutOfMemoryError there is not enough memory for this; got: image 3 x 40 x 30")
    assert usable == "usable afterwards"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        np.exceptions.AxisError("std::bad_alloc"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("[ONNXRuntimeError] : 6 : Failed to allocate memory for requested buffer of size 5"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB"),
    ],
    ids=lambda error: str(error)[:20],
)
def test_what_engines_say_of_memory_is_known(error: Exception) -> None:
    with pytest.raises(OutOfMemoryError, match="image 3 x 4 x 5") as caught, memory_guard((3, 4, 5)):
        raise error
    assert isinstance(caught.value, DetexportError)
    assert isinstance(caught.value, MemoryError)


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(ZeroDivisionError), memory_guard((3, 4, 5)):
        raise ZeroDivisionError
    with pytest.raises(InputError), memory_guard((3, 4, 5)):
        raise InputError("said in other words, out of memory")
