"""A validation that was interrupted goes on where it stopped."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detexport.errors import OutputError
from detexport.metrics.evaluate import ImageEvaluation
from detexport.parity.compare import SampleParity
from detexport.parity.compare.match_detections import OneSided
from detexport.processing.postprocess import postprocess
from detexport.reference.resume import Nothing, Progress, from_plain, progress_folder, validation_key
from detexport.reference.store import SampleMeta, write_reference
from detexport.runtime.onnxruntime import OnnxRuntime
from detexport.system.atomic import atomic_dir
from tiny_artifacts import tiny_contract, tiny_image

SAMPLES = 6
KILLED_AT = 3

VALIDATE = """
import os, signal, sys
from pathlib import Path
from detexport.reference.resume import Progress, progress_folder
from detexport.reference.store import read_reference
from detexport.parity.validate import validate
from detexport.runtime.onnxruntime import OnnxRuntime
from tolerances import TOLERANCE

folder, artifact, killed_at, key = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
session = OnnxRuntime(threads=1).open(artifact)

class Mortal:
    artifact, device, calls = session.artifact, "cpu", 0

    def __call__(self, image, output_size=None):
        if self.calls == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.calls += 1
        outputs = session(image, output_size)
        outputs["pred_boxes"] = outputs["pred_boxes"] * 1.01  # reasons and numbers that are not 0
        return outputs

mortal = Mortal()
with Progress(progress_folder(folder / "onnx.json"), key) as progress:
    reference = read_reference(folder / "reference")
    report = validate(mortal, reference, TOLERANCE, job="j", draw=3, progress=progress)
    report.save(folder / "onnx.json", folder / "onnx_drawn.npz")
print(mortal.calls)
"""


@pytest.fixture
def folder(tmp_path: Path, tiny_onnx: Path) -> Path:
    session = OnnxRuntime(threads=1).open(tiny_onnx)
    size = (30, 50)

    def samples() -> Any:
        for image_id in range(SAMPLES):
            image = tiny_image(*size, (200 - image_id, 90, 140))
            meta = SampleMeta(f"{image_id}", image_id, f"{image_id}.png", size, size, 1.0)
            yield meta, image, postprocess(session(image), size, size, tiny_contract())

    write_reference(tmp_path / "reference", samples(), contract=tiny_contract(), environment={})
    return tmp_path


def run(
    folder: Path, artifact: Path, killed_at: int = -1, key: str = "k"
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", VALIDATE, str(folder), str(artifact), str(killed_at), key]
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def results(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in ("onnx.json", "onnx_drawn.npz")]


def test_a_killed_run_goes_on_and_says_what_one_run_says(folder: Path, tiny_onnx: Path) -> None:
    whole = run(folder, tiny_onnx)
    assert whole.stdout == f"{SAMPLES}\n", whole.stderr
    expected = results(folder)
    (folder / "onnx.json").unlink()
    assert run(folder, tiny_onnx, KILLED_AT).returncode == -signal.SIGKILL
    assert not (folder / "onnx.json").exists()
    assert progress_folder(folder / "onnx.json").is_dir()
    # Killed again, in the midst of a line.
    with (progress_folder(folder / "onnx.json") / "measured.jsonl").open("a") as file:
        file.write('{"name": "3", "val')
    assert run(folder, tiny_onnx, 1).returncode == -signal.SIGKILL
    rest = run(folder, tiny_onnx)
    assert rest.stdout == f"{SAMPLES - KILLED_AT - 1}\n", rest.stderr
    assert results(folder) == expected
    assert sorted(path.name for path in folder.iterdir()) == ["onnx.json", "onnx_drawn.npz", "reference"]


def test_what_was_measured_on_something_else_is_measured_again(folder: Path, tiny_onnx: Path) -> None:
    assert run(folder, tiny_onnx, KILLED_AT).returncode == -signal.SIGKILL
    assert run(folder, tiny_onnx, key="another").stdout == f"{SAMPLES}\n"


def test_a_key_names_all_that_a_measurement_depends_on(folder: Path) -> None:
    data = folder / "data"
    data.mkdir()
    (data / "a.png").write_bytes(b"a")
    given: dict[str, Any] = {"reference": folder / "reference", "data": data, "settings": {"draw": 3}}
    key = validation_key("0" * 64, **given)
    assert validation_key("0" * 64, **given) == key
    others = [
        validation_key("1" * 64, **given),
        validation_key("0" * 64, **{**given, "settings": {"draw": 4}}),
    ]
    (data / "a.png").write_bytes(b"ab")
    others.append(validation_key("0" * 64, **given))
    (data / "a.png").unlink()
    (folder / "reference" / "samples" / "0.npz").write_bytes(b"")
    others.append(validation_key("0" * 64, **given))
    assert len({key, *others}) == 1 + len(others)


def test_an_error_leaves_what_was_measured(tmp_path: Path) -> None:
    found = ImageEvaluation(1, {"bbox": [{"image_id": 1, "score": 0.5}]}, segments=[(3, 0.9, 1, 0, 0)])

    def fail() -> ImageEvaluation:
        raise MemoryError

    def measure_both() -> None:
        with Progress(tmp_path / "p", "k") as progress:
            assert progress.once("a", ImageEvaluation, lambda: found) == found
            progress.once("b", ImageEvaluation, fail)

    with pytest.raises(MemoryError):
        measure_both()
    with Progress(tmp_path / "p", "k") as progress:
        assert progress.once("a", ImageEvaluation, fail) == found
    assert not (tmp_path / "p").exists()


def test_without_a_folder_nothing_is_kept() -> None:
    progress = Progress()
    assert progress.once("a", ImageEvaluation, lambda: ImageEvaluation(1, {})).image_id == 1
    assert progress.once("a", ImageEvaluation, lambda: ImageEvaluation(2, {})).image_id == 2


def test_a_measurement_comes_back_as_it_was() -> None:
    one = OneSided(
        1,
        2,
        0.1 + 0.2,
        (1.5, 2.5, 3.5, float(np.float32(0.1))),
        "the score threshold",
        0.1 + 0.7,
        excused=True,
    )
    sample = SampleParity(
        3, 2, 1, missing=(one,), errors={"box_error_px": 1e-7, "mask_error_px": 3}, box_limit_px=None
    )
    assert from_plain(SampleParity, json.loads(json.dumps(asdict(sample)))) == sample


@pytest.mark.parametrize("value", [3, "street.jpg", None])
def test_a_value_of_several_plain_types_is_read_as_it_was_written(value: int | str | None) -> None:
    assert from_plain(int | str | None, value) == value


def test_two_processes_do_not_measure_into_one_folder(tmp_path: Path) -> None:
    with Progress(tmp_path / "p", "k") as progress:
        progress.once("a", Nothing, Nothing)
        with pytest.raises(OutputError, match="another process validates"), Progress(tmp_path / "p", "other"):
            pass
        # A reference is made there, under the lock of the folder.
        with atomic_dir(tmp_path / "p" / "reference"):
            pass
        assert (tmp_path / "p" / "reference").is_dir()
