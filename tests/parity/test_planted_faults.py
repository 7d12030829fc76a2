"""Faults planted in a real artifact are caught by the verdict that has to name them; harmless ones pass."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark_parity import CachedSession
from detexport.checkpoint import load_weights, read_state_dict
from detexport.config.cfg import load_cfg
from detexport.data.coco import load_coco
from detexport.modeling import build_model
from detexport.parity.settings import default_settings
from detexport.parity.validate import validate
from detexport.reference.eager_samples import eager_samples
from detexport.reference.store import Reference, read_reference, write_reference
from detexport.runtime.torchscript import TorchScript
from planted_faults import FAULTS, HARMLESS, Fault
from synthetic_shapes import synthetic_shapes
from tolerances import TOLERANCE

ROOT = Path(__file__).parents[2]
CLASSES = ("circle", "rectangle", "triangle", "star", "ring")


@contextmanager
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Reference]:
    """The small Mask R-CNN, scripted, and its reference: of two images and edge-case inputs."""
    folder = tmp_path_factory.mktemp("planted")
    synthetic_shapes(train_images=0, val_images=4, min_objects=0, max_objects=4).write(folder / "shapes")
    cfg = load_cfg(ROOT / "conf/detectron2/mask_rcnn.yaml")
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.3
    net = build_model(cfg).eval()
    load_weights(net, read_state_dict(ROOT / "checkpoints/mask_rcnn.safetensors"))
    contract = net.contract(CLASSES)
    records = load_coco(folder / "shapes", "val").images[:2]
    with one_thread():
        write_reference(
            folder / "reference",
            eager_samples(net, contract, records, replace(default_settings().plan, scales=(1.0, 0.75))),
            contract=contract,
            environment={},
        )
    reference = read_reference(folder / "reference")
    # By the command, which sees to it that hashes are fixed: a scripted file needs that.
    command = [
        "export",
        "--config-file",
        "conf/detectron2/mask_rcnn.yaml",
        "--target",
        "scripting",
        "--no-check",
    ]
    command += ["--weights", "checkpoints/mask_rcnn.safetensors", "--output", str(folder / "artifact")]
    command += ["--class-names", ",".join(CLASSES), "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.3"]
    subprocess.run(
        [sys.executable, "-m", "detexport.cli", *command], cwd=ROOT, check=True, capture_output=True
    )
    return CachedSession(TorchScript(threads=1).open(folder / "artifact")), reference


def test_there_are_enough_of_them(planted: tuple[Any, Reference]) -> None:
    artifact = planted[0].artifact
    assert sum(fault.applies_to(artifact) for fault in FAULTS) >= 30


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_caught_and_named(planted: tuple[Any, Reference], fault: Fault) -> None:
    session, reference = planted
    if not fault.applies_to(session.artifact):
        assert fault.needs, "it applies to nothing"
        return
    report = validate(fault.plant(session), reference, TOLERANCE, job="j")
    failed = {name for name, verdict in report.verdicts.items() if not verdict.passed}
    assert failed & set(fault.verdicts), report.reasons


@pytest.mark.parametrize("change", HARMLESS, ids=lambda change: change.name)
def test_a_harmless_change_passes(planted: tuple[Any, Reference], change: Fault) -> None:
    session, reference = planted
    if not change.applies_to(session.artifact):
        assert change.needs, "it applies to nothing"
        return
    report = validate(change.plant(session), reference, TOLERANCE, job="j")
    assert report.passed, report.reasons
