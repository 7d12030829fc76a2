"""Each C++ program against the Python runtime of its artifact, on the small trained models.

`make cpp-test` builds the programs and runs this.
"""

from pathlib import Path

import numpy as np
import pytest
from exported import Exports, draw_pictures
from programs import PROGRAMS, built, detect, expected, to_labels, to_outputs

from detexport.artifact import read_artifact
from detexport.data.coco import read_image
from detexport.outputs import count_rows
from detexport.parity.compare import compare
from detexport.runtime import default_engine
from tolerances import TOLERANCE

# An artifact that takes minutes to make is made within its test.
pytestmark = [pytest.mark.cpp, pytest.mark.timeout(1800)]
# Every artifact of Mask R-CNN; of models with outputs of their own what is quick to export: the programs
# share all that comes after the graph, which test_common.py holds against Python for each kind of output.
CASES = [
    ("mask_rcnn", "tracing", "torchscript"),
    ("mask_rcnn", "scripting", "torchscript"),
    ("mask_rcnn", "onnx", "onnx_runtime"),
    ("mask_rcnn", "openvino", "openvino"),
    ("mask_rcnn", "aot_inductor", "aot_inductor"),
    ("keypoint_rcnn", "tracing", "torchscript"),
    ("retinanet", "scripting", "torchscript"),
    ("panoptic_fpn", "tracing", "torchscript"),
    ("panoptic_fpn", "scripting", "torchscript"),
]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return draw_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory, pictures: list[Path]) -> Exports:
    return Exports(tmp_path_factory.mktemp("artifacts"), pictures)


@pytest.mark.parametrize(("model", "artifact", "program"), CASES, ids=lambda name: name)
def test_a_program_finds_what_the_python_runtime_finds(
    exports: Exports, pictures: list[Path], model: str, artifact: str, program: str
) -> None:
    built(program)
    folder = exports.get(model, artifact)
    session = default_engine(read_artifact(folder).format).open(folder)
    contract = session.artifact.contract
    assert PROGRAMS[session.artifact.format] == program
    counts = []
    for picture in pictures:
        printed = detect(program, folder, picture, "--threads", 1)
        wanted = expected(session, picture)
        counts.append(count_rows(wanted))
        if "sem_seg" in wanted:
            check_labels(to_labels(printed, wanted["sem_seg"].shape[1:]), wanted.pop("sem_seg"))
        size = read_image(picture).shape[1:]
        actual = to_outputs(printed, size, contract)
        found = compare(wanted, actual, tolerance=TOLERANCE, contract=contract, scale=1.0)
        assert found.passed, (picture.name, found.reasons)
        assert printed["class_names"] == [contract.class_names[index] for index in printed["classes"]]
    if model == "mask_rcnn":
        assert counts[:2] == [0, 1]
    assert max(counts) > 2


def check_labels(labels: np.ndarray, logits: np.ndarray) -> None:
    """Each pixel's class has the highest logit, or one that the tolerance cannot tell from it."""
    assert labels.min() >= 0
    chosen = np.take_along_axis(logits, labels[None], 0)[0]
    assert (logits.max(0) - chosen).max() <= 2 * TOLERANCE.sem_seg
