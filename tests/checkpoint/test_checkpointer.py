"""``DetectionCheckpointer``: its public behaviour, and the files that a killed save leaves."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from detexport.checkpoint import DetectionCheckpointer, PeriodicCheckpointer
from detexport.errors import CheckpointError


def tiny(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def trained(model: nn.Module) -> tuple[torch.optim.Optimizer, Any]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 2, 5])
    for _ in range(3):
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        scheduler.step()
    return optimizer, scheduler


def same(first: nn.Module, second: nn.Module) -> bool:
    others = second.state_dict()
    return all(torch.equal(tensor, others[name]) for name, tensor in first.state_dict().items())


def test_training_resumes_from_the_last_checkpoint(tmp_path: Path) -> None:
    model = tiny()
    optimizer, scheduler = trained(model)
    checkpointer = DetectionCheckpointer(model, str(tmp_path), optimizer=optimizer, scheduler=scheduler)
    assert not checkpointer.has_checkpoint()
    assert checkpointer.get_checkpoint_file() == ""
    checkpointer.save("model_0000002", iteration=2, note="half way")
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000002.pth"

    other = tiny(1)
    new_optimizer = torch.optim.AdamW(other.parameters(), lr=7)
    new_scheduler = torch.optim.lr_scheduler.MultiStepLR(new_optimizer, [1])
    resumed = DetectionCheckpointer(other, tmp_path, optimizer=new_optimizer, scheduler=new_scheduler)
    rest = resumed.resume_or_load("elsewhere.pth", resume=True)
    assert rest == {"iteration": 2, "note": "half way"}
    assert same(model, other)
    assert new_optimizer.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]
    assert new_scheduler.last_epoch == 3
    assert new_scheduler.milestones == Counter({2: 2, 5: 1})
    assert resumed.report is not None
    assert resumed.report.complete


def test_torch_loads_the_file_with_weights_only(tmp_path: Path) -> None:
    model = tiny()
    optimizer, _ = trained(model)
    DetectionCheckpointer(model, tmp_path, optimizer=optimizer).save("a", iteration=9)
    content = torch.load(tmp_path / "a.pth", weights_only=True)
    assert content.keys() == {"model", "optimizer", "iteration"}
    assert content["iteration"] == 9
    assert content["model"].keys() == model.state_dict().keys()


def test_without_resume_only_the_model_is_loaded(tmp_path: Path) -> None:
    model, other = tiny(), tiny(1)
    optimizer, _ = trained(model)
    DetectionCheckpointer(model, tmp_path, optimizer=optimizer).save("a", iteration=9)
    new_optimizer = torch.optim.AdamW(other.parameters(), lr=7)
    checkpointer = DetectionCheckpointer(other, tmp_path, optimizer=new_optimizer)
    rest = checkpointer.resume_or_load(tmp_path / "a.pth", resume=False)
    assert rest.keys() == {"optimizer", "iteration"}
    assert same(model, other)
    assert new_optimizer.param_groups[0]["lr"] == 7
    # The same without a last checkpoint.
    fresh = DetectionCheckpointer(tiny(1), tmp_path / "new", optimizer=new_optimizer)
    assert fresh.resume_or_load(str(tmp_path / "a.pth"))["iteration"] == 9
    assert new_optimizer.param_groups[0]["lr"] == 7


@pytest.mark.parametrize("path", ["", None])
def test_an_empty_path_leaves_the_model_unchanged(path: str | None) -> None:
    model = tiny()
    checkpointer = DetectionCheckpointer(model)
    assert checkpointer.load(path) == {}
    assert checkpointer.report is None
    assert same(model, tiny())


def test_all_mismatches_are_logged_together(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = tiny()
    given = {**model.state_dict(), "0.bias": torch.zeros(9), "head.weight": torch.zeros(1)}
    del given["1.weight"]
    save_file(given, tmp_path / "a.safetensors")
    checkpointer = DetectionCheckpointer(model)
    with caplog.at_level(logging.WARNING, "detexport"):
        checkpointer.load(tmp_path / "a.safetensors")
    (message,) = caplog.messages
    for part in (
        "2 tensors are loaded",
        "1 missing: 1.weight",
        "1 unexpected: head.weight",
        "0.bias [9] instead",
    ):
        assert part in message
    report = checkpointer.report
    assert report is not None
    assert report.loaded == ("0.weight", "1.bias")
    assert report.missing_keys == ("1.weight",)
    with pytest.raises(CheckpointError, match="does not belong"):
        checkpointer.load(tmp_path / "a.safetensors", strict=True)
    rules = {"strict": True, "new_parameters": ["0.bias", "1.*"]}
    with pytest.raises(CheckpointError, match=r"got: 1 unexpected: head\.weight; 2 new"):
        checkpointer.load(tmp_path / "a.safetensors", **rules)


def test_missing_checkpointables_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = tiny()
    DetectionCheckpointer(model, tmp_path).save("a")
    optimizer = torch.optim.SGD(model.parameters(), lr=7)
    with caplog.at_level(logging.WARNING, "detexport"):
        DetectionCheckpointer(model, optimizer=optimizer).load(tmp_path / "a.pth")
    assert "holds no optimizer" in caplog.text
    with pytest.raises(CheckpointError, match="got: scheduler"):
        DetectionCheckpointer(model, optimizer=optimizer).load(tmp_path / "a.pth", ["scheduler"])


def test_names_and_objects_that_cannot_be_saved(tmp_path: Path) -> None:
    model = tiny()
    with pytest.raises(CheckpointError, match="without state_dict"):
        DetectionCheckpointer(model, tmp_path, iteration=3)
    checkpointer = DetectionCheckpointer(model, tmp_path, optimizer=trained(model)[0])
    for name, extra in (("../a", {}), ("a", {"optimizer": 1}), ("a", {"model": 1})):
        with pytest.raises(CheckpointError, match="under this name"):
            checkpointer.save(name, **extra)
    for value in (range(3), Path("x"), lambda: 1):
        with pytest.raises((CheckpointError, AttributeError)):
            checkpointer.save("a", value=value)
    assert os.listdir(tmp_path) == []


def test_what_load_would_refuse_is_not_saved(tmp_path: Path) -> None:
    conjugated = torch.randn(2, dtype=torch.complex64).conj()  # which torch itself reads
    with pytest.raises(CheckpointError, match=r"cannot save .*'phase' is a conjugated"):
        DetectionCheckpointer(tiny(), tmp_path).save("a", phase=conjugated)
    assert os.listdir(tmp_path) == []


def test_a_number_of_numpy_is_saved_since_load_reads_it(tmp_path: Path) -> None:
    checkpointer = DetectionCheckpointer(tiny(), tmp_path)
    checkpointer.save("a", loss=np.float64(0.5))
    assert checkpointer.load(tmp_path / "a.pth") == {"loss": 0.5}


def test_save_to_disk(tmp_path: Path) -> None:
    DetectionCheckpointer(tiny(), tmp_path, save_to_disk=False).save("a")
    DetectionCheckpointer(tiny()).save("a")
    assert os.listdir(tmp_path) == []


def test_a_data_parallel_wrapper_is_removed(tmp_path: Path) -> None:
    model = tiny()
    DetectionCheckpointer(nn.DataParallel(model), tmp_path).save("a")
    other = tiny(1)
    assert DetectionCheckpointer(nn.DataParallel(other)).load(tmp_path / "a.pth") == {}
    assert same(model, other)


def test_a_missing_last_checkpoint_is_an_error(tmp_path: Path) -> None:
    checkpointer = DetectionCheckpointer(tiny(), tmp_path)
    checkpointer.save("a")
    (tmp_path / "a.pth").unlink()
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*a\.pth"):
        checkpointer.resume_or_load("b.pth")


def test_periodic(tmp_path: Path) -> None:
    checkpointer = DetectionCheckpointer(tiny(), tmp_path)
    periodic = PeriodicCheckpointer(checkpointer, 2, max_iter=7, max_to_keep=2)
    for iteration in range(7):
        periodic.step(iteration, loss=0.5)
    names = ["model_0000003.pth", "model_0000005.pth", "model_final.pth"]
    assert checkpointer.get_all_checkpoint_files() == [str(tmp_path / name) for name in names]
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "model_final.pth")
    assert checkpointer.load(checkpointer.get_checkpoint_file()) == {"iteration": 6, "loss": 0.5}


SAVE_REPEATEDLY = """
import itertools, sys, torch
from torch import nn
from detexport.checkpoint import DetectionCheckpointer
model = nn.Linear(1000, 1000)
checkpointer = DetectionCheckpointer(model, sys.argv[1])
for iteration in itertools.count():
    with torch.no_grad():
        model.weight.fill_(iteration)
    checkpointer.save(f"model_{iteration % 3}", iteration=iteration)
    print(iteration, flush=True)
"""


def test_a_killed_save_leaves_the_last_complete_checkpoint(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SAVE_REPEATEDLY, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for _ in range(4):
        process.stdout.readline()
    time.sleep(0.013)  # during one of the saves
    process.send_signal(signal.SIGKILL)
    saved = 3 + len(process.communicate()[0].split())
    model = nn.Linear(1000, 1000)
    checkpointer = DetectionCheckpointer(model, tmp_path)
    iteration = checkpointer.resume_or_load("", resume=True)["iteration"]
    assert iteration >= saved
    assert model.weight.eq(iteration).all()
    for path in checkpointer.get_all_checkpoint_files():
        assert checkpointer.load(path).keys() == {"iteration"}
    # The partial file is no checkpoint, and the next save of its name removes it.
    checkpointer.save("model_0")
    checkpointer.save("model_1")
    checkpointer.save("model_2")
    assert len(os.listdir(tmp_path)) == 4


@pytest.mark.parametrize("kept", [0, 100, 0.5, 0.99])
def test_a_partial_file_is_no_checkpoint(tmp_path: Path, kept: float) -> None:
    """A partial file as after a kill before the rename."""
    checkpointer = DetectionCheckpointer(tiny(), tmp_path)
    checkpointer.save("a", iteration=1)
    whole = (tmp_path / "a.pth").read_bytes()
    cut = int(kept if kept > 1 else kept * len(whole))
    left = tmp_path / ".b.pth.partial-4711" / "new" / "b.pth"
    left.parent.mkdir(parents=True)
    left.write_bytes(whole[:cut])
    assert checkpointer.get_all_checkpoint_files() == [str(tmp_path / "a.pth")]
    assert checkpointer.resume_or_load("")["iteration"] == 1
    checkpointer.save("b")
    assert sorted(os.listdir(tmp_path)) == ["a.pth", "b.pth", "last_checkpoint"]
