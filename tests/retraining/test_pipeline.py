"""DVC's commands on a small pipeline of shell commands."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from toy_pipeline import commit, require

from detexport.errors import ConfigError
from detexport.retraining.pipeline import Pipeline, PipelineError, PipelineRequestError, environment

DVC = (sys.executable, "-m", "dvc")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a stage that copies tracked data, and one that ends with the code in a file."""
    monkeypatch.delenv("DVC_ROOT", raising=False)
    folder = tmp_path / "a project"
    (folder / "tools").mkdir(parents=True)
    (folder / "tools/preflight.py").write_text("")
    (folder / "params.yaml").write_text("{}\n")
    (folder / "code").write_text("0")
    (folder / "labels.txt").write_text("one\n")
    verdict = "echo 'error: it is worse'; exit `cat code`"
    stages = {
        "copy": {"cmd": "cp labels.txt copied.txt", "deps": ["labels.txt"], "outs": ["copied.txt"]},
        "verdict": {"cmd": verdict, "deps": ["copied.txt", "code"]},
    }
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    require(folder, "git", "init", "-q", "-b", "main")
    require(folder, *DVC, "init", "-q")
    require(folder, *DVC, "add", "-q", "labels.txt")
    commit(folder)
    return folder


def test_a_folder_without_a_pipeline_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no dvc\.yaml, no params\.yaml"):
        Pipeline(tmp_path)


def test_what_is_out_of_date_is_run(root: Path) -> None:
    pipeline = Pipeline(root)
    assert set(pipeline.stale()) == {"copy", "verdict"}
    assert pipeline.repro() is None
    assert pipeline.stale() == []
    (root / "labels.txt").write_text("two\n")  # edited in place
    assert set(pipeline.stale()) == {"labels.txt.dvc", "copy"}
    assert pipeline.repro("copy") is None
    assert (root / "copied.txt").read_text() == "two\n"


def test_the_exit_code_of_a_stage_decides(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline = Pipeline(root)
    (root / "code").write_text("1")
    refusal = pipeline.repro()
    assert refusal is not None
    assert (refusal.stage, refusal.reason) == ("verdict", "it is worse")
    (root / "code").write_text("2")
    with pytest.raises(PipelineRequestError, match="the stage verdict failed; got: it is worse"):
        pipeline.repro()
    refusal = pipeline.repro(refusals=(1, 2))
    assert refusal is not None
    for code in (3, 69):
        (root / "code").write_text(str(code))
        with pytest.raises(PipelineError) as raised:
            pipeline.repro()
        assert raised.value.exit_code == 3
    (root / "labels.txt").unlink()
    with pytest.raises(PipelineError, match=r"labels\.txt") as raised:
        pipeline.repro()
    assert raised.value.exit_code == 3
    assert "it is worse" in capsys.readouterr().out


@pytest.mark.parametrize("fault", ["import no_such_module", "if", "raise SystemExit(1)", "exit(2)"])
def test_a_stage_that_python_ends_refused_nothing(root: Path, fault: str) -> None:
    """Python's exit code for an exception is a failed verdict's; only the failed stage's output counts."""
    (root / "stage.py").write_text(f"{fault}\n")
    stages = {
        "before": {"cmd": "echo 'error: a word of a stage that passed'", "deps": ["code"]},
        "verdict": {"cmd": f"'{sys.executable}' stage.py", "deps": ["stage.py"]},
    }
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    with pytest.raises(PipelineError, match="the stage verdict failed") as raised:
        Pipeline(root).repro("before", "verdict", refusals=(1, 2))
    assert raised.value.exit_code == 3


def test_data_are_pulled_and_results_pushed(root: Path, tmp_path: Path) -> None:
    alone = Pipeline(root)
    alone.pull()
    assert not alone.push()
    require(root, *DVC, "remote", "add", "-q", "--default", "store", str(tmp_path / "store"))
    commit(root)
    pipeline = Pipeline(root)
    assert pipeline.repro() is None
    commit(root)
    assert pipeline.push()
    require(root, "git", "clone", "-q", str(root), str(tmp_path / "clone"))
    clone = Pipeline(tmp_path / "clone")
    clone.pull()
    assert (clone.root / "copied.txt").read_text() == "one\n"
    assert clone.stale() == []
    # Results of an interrupted run are replaced; data that a user changed are not.
    (clone.root / "copied.txt").write_text("half of i")
    clone.pull()
    assert (clone.root / "copied.txt").read_text() == "one\n"
    (clone.root / "labels.txt").write_text("mine\n")
    with pytest.raises(PipelineRequestError, match=r"got: .*labels\.txt; .*remedy: .*dvc add"):
        clone.pull()
    assert (clone.root / "labels.txt").read_text() == "mine\n"


def test_imported_data_are_updated(root: Path, tmp_path: Path) -> None:
    source = tmp_path / "source.txt"
    source.write_text("first\n")
    pipeline = Pipeline(root)
    pipeline.update_imports()
    require(root, *DVC, "import-url", "-q", str(source), "imported.txt")
    source.write_text("second night\n")
    pipeline.update_imports()
    assert (root / "imported.txt").read_text() == "second night\n"
    source.unlink()
    with pytest.raises(PipelineError, match="dvc update failed"):
        pipeline.update_imports()


def test_the_stages_python_is_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/bin")
    monkeypatch.setenv("DVC_ROOT", "/elsewhere")
    assert environment()["PATH"].split(os.pathsep) == [str(Path(sys.executable).parent), "/bin"]
    assert "DVC_ROOT" not in environment()


@pytest.mark.parametrize("command", ["sleep 600", "trap '' TERM; sleep 600"])
def test_a_signal_ends_the_stages_too(root: Path, command: str) -> None:
    """Also a stage that does not end at SIGTERM, at which DVC ends."""
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"long": {"cmd": command, "deps": ["code"]}}}))
    program = (
        "import pathlib; from detexport.system.process import end_on_signals; "
        "from detexport.retraining import pipeline; pipeline.GRACE_S = 5; "
        "end_on_signals(); pipeline.Pipeline(pathlib.Path()).repro()"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=root) as process:
        job = psutil.Process(process.pid)
        until = time.monotonic() + 60
        while not (sleeping := [one for one in job.children(recursive=True) if one.name() == "sleep"]):
            assert time.monotonic() < until
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
    psutil.wait_procs(sleeping, timeout=10)
    assert not [one for one in sleeping if one.is_running()]
