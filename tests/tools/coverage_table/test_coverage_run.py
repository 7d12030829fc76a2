"""Steps are run in their order, in processes of their own, and not again on the same inputs."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from coverage_table.run import Outcome, Runner, alone
from coverage_table.steps import Step, producers
from detexport.errors import ConfigError, RuntimeUnavailableError
from detexport.execution.engine import Command, CommandResult, Local, Resources, kill

TOOLS = Path(__file__).parents[3] / "tools"
COPY = "import sys, pathlib; pathlib.Path(sys.argv[2]).write_bytes(pathlib.Path(sys.argv[1]).read_bytes())"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "duplicate.py").write_text(COPY)
    (tmp_path / "a").write_text("1")
    return tmp_path


def copy(source: str, target: str, stage: str = "copy") -> Step:
    deps = (source, "duplicate.py")
    return Step(f"{stage}@{target}", f"python duplicate.py {source} {target}", deps, (target,), {})


def script(folder: Path, name: str, code: str, stage: str = "script") -> Step:
    (folder / f"{name}.py").write_text(code)
    return Step(f"{stage}@{name}", f"python {name}.py", (f"{name}.py",), (), {})


def run(folder: Path, *steps: Step, time_limit_s: float = 60) -> tuple[dict[str, Outcome], list[str]]:
    """The outcomes, and the names of the steps that were run now."""
    ran: list[str] = []

    def report(step: Step, outcome: Outcome, now: bool) -> None:
        if now:
            ran.append(step.name)

    runner = Runner(folder, time_limit_s)
    return runner.run(steps, producers(steps), processes=2, report=report), ran


def children_in(folder: Path, program: str) -> list[int]:
    """Processes of this interpreter that run a program in the folder."""
    command = ["pgrep", "-f", f"^{sys.executable} {program}"]
    done = subprocess.run(command, capture_output=True, check=False)
    pids = [int(pid) for pid in done.stdout.split()]
    return [pid for pid in pids if Path(f"/proc/{pid}/cwd").resolve() == folder.resolve()]


def test_a_chain_runs_in_its_order_and_is_not_run_again(folder: Path) -> None:
    steps = copy("a", "b"), copy("b", "c")
    outcomes, ran = run(folder, *steps)
    assert (folder / "c").read_text() == "1"
    assert ran == ["copy@b", "copy@c"]
    assert [outcome.status for outcome in outcomes.values()] == ["ok", "ok"]
    assert outcomes["copy@c"].peak_bytes > 1e6
    again, ran = run(folder, *steps)
    assert (again, ran) == (outcomes, [])


def test_what_changes_is_run_again_and_what_comes_of_it(folder: Path) -> None:
    steps = copy("a", "b"), copy("b", "c"), copy("a2", "d")
    (folder / "a2").write_text("1")
    run(folder, *steps)
    (folder / "a").write_text("2")
    _, ran = run(folder, *steps)
    assert ran == ["copy@b", "copy@c"]
    assert (folder / "c").read_text() == "2"
    (folder / "c").unlink()
    assert run(folder, *steps)[1] == ["copy@c"]


def test_code_that_writes_the_same_as_before_leaves_the_rest_as_it_is(folder: Path) -> None:
    steps = copy("a", "b"), copy("b", "c")
    run(folder, *steps)
    (folder / "duplicate2.py").write_text(COPY)
    other = Step("copy@b", "python duplicate2.py a b", ("a", "duplicate2.py"), ("b",), {})
    assert run(folder, other, steps[1])[1] == ["copy@b"]


def test_a_failure_is_told_and_blocks_only_what_needs_it(folder: Path) -> None:
    failing = script(folder, "fails", "raise SystemExit('error: no; got: 3')", stage="export")
    failing = Step(failing.name, failing.cmd, failing.deps, ("never",), {})
    outcomes, _ = run(folder, failing, copy("never", "x", "convert"), copy("x", "y"), copy("a", "b"))
    assert outcomes["export@fails"].status == "failed"
    assert outcomes["export@fails"].reason == "no; got: 3"
    assert outcomes["convert@x"] == outcomes["copy@y"] == Outcome("", "blocked", "export: no; got: 3")
    assert outcomes["copy@b"].status == "ok"


def test_what_failed_is_tried_again_and_what_worked_is_not(folder: Path) -> None:
    """The cause may lie outside of all that is read: a full disk."""
    code = "import pathlib; pathlib.Path('room').read_text()"
    steps = copy("a", "b"), script(folder, "needs_room", code)
    assert run(folder, *steps)[0]["script@needs_room"].status == "failed"
    (folder / "room").touch()
    outcomes, ran = run(folder, *steps)
    assert (outcomes["script@needs_room"].status, ran) == ("ok", ["script@needs_room"])
    assert run(folder, *steps)[1] == []


def test_what_a_killed_run_wrote_is_not_taken_for_that_of_the_run_before(folder: Path) -> None:
    """It is known by its inputs, which were others."""
    (folder / "duplicate.py").write_text(f"{COPY}; import time; time.sleep(60 * (sys.argv[3:] == ['slow']))")
    quick = copy("a", "b")
    run(folder, quick)
    (folder / "a2").write_text("2")
    program = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from coverage_table.run import Runner
from coverage_table.steps import Step, producers
steps = [Step("copy@b", "python duplicate.py a2 b slow", ("a2", "duplicate.py"), ("b",), {})]
Runner(Path(sys.argv[1]), 60).run(steps, producers(steps), processes=1, report=lambda *_: None)
"""
    command = [sys.executable, "-c", program, str(folder), str(TOOLS)]
    runner = subprocess.Popen(command, start_new_session=True)
    until = time.monotonic() + 60
    while (folder / "b").read_text() != "2":
        assert time.monotonic() < until
        time.sleep(0.05)
    runner.kill()
    runner.wait()
    for pid in children_in(folder, "duplicate.py"):
        kill(pid)
    assert run(folder, quick)[1] == ["copy@b"]
    assert (folder / "b").read_text() == "1"


def test_the_last_line_of_a_trace_is_the_reason(folder: Path) -> None:
    outcomes, _ = run(folder, script(folder, "raises", "raise ValueError('seven')"))
    assert outcomes["script@raises"].reason == "ValueError: seven"


def test_what_a_machine_lacks_is_no_failure_and_is_tried_again(folder: Path) -> None:
    lacking = script(folder, "lacks", f"print('error: no CUDA'); raise SystemExit({os.EX_UNAVAILABLE})")
    outcomes, _ = run(folder, lacking)
    assert (outcomes["script@lacks"].status, outcomes["script@lacks"].reason) == ("unavailable", "no CUDA")
    assert run(folder, lacking)[1] == ["script@lacks"]


def test_a_step_that_takes_too_long_is_ended_and_tried_again(folder: Path) -> None:
    endless = script(folder, "endless", "import time; print('waiting', flush=True); time.sleep(60)")
    start = time.monotonic()
    outcomes, _ = run(folder, endless, time_limit_s=2)
    assert time.monotonic() - start < 30
    assert outcomes["script@endless"].status == "failed"
    assert "longer than allowed" in outcomes["script@endless"].reason
    assert run(folder, endless, time_limit_s=2)[1] == ["script@endless"]


def test_an_artifact_is_run_where_the_models_code_cannot_be_imported(folder: Path) -> None:
    code = "import helper, sys; print(sys.argv); import detexport.modeling"
    (folder / "helper.py").write_text("")
    outcomes, _ = run(folder, script(folder, "imports", code, stage="validate"))
    assert "import of detexport.modeling halted" in outcomes["validate@imports"].reason
    outcomes, _ = run(folder, script(folder, "imports", code, stage="export"))
    assert outcomes["export@imports"].status == "ok"


def test_steps_run_beside_one_another(folder: Path) -> None:
    """Each of the two waits for the other one."""
    code = """
import pathlib, sys, time
pathlib.Path("{own}").touch()
until = time.monotonic() + 30
while not pathlib.Path("{other}").exists():
    if time.monotonic() > until:
        sys.exit("error: alone")
    time.sleep(0.01)
"""
    steps = [
        script(folder, own, code.format(own=f"{own}.here", other=f"{other}.here"))
        for own, other in (("one", "two"), ("two", "one"))
    ]
    outcomes, _ = run(folder, *steps)
    assert {outcome.status for outcome in outcomes.values()} == {"ok"}


def test_two_runs_do_not_share_a_folder(folder: Path) -> None:
    with alone(folder), pytest.raises(ConfigError, match="another run is at work"), alone(folder):
        pass
    with alone(folder):
        pass


def test_an_interrupted_runner_ends_its_steps_and_goes_on_later(folder: Path) -> None:
    (folder / "slow.py").write_text("import pathlib, time; pathlib.Path('started').touch(); time.sleep(60)")
    program = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from coverage_table.run import Runner
from coverage_table.steps import Step, producers
first = Step("copy@b", "python duplicate.py a b", ("a", "duplicate.py"), ("b",), {})
slow = Step("script@slow", "python slow.py", ("b", "slow.py"), (), {})
steps = first, slow
Runner(Path(sys.argv[1]), 60).run(steps, producers(steps), processes=2, report=lambda *_: None)
"""
    command = [sys.executable, "-c", program, str(folder), str(TOOLS)]
    runner = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not (folder / "started").exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    runner.send_signal(2)
    assert runner.wait(timeout=30) != 0
    assert not children_in(folder, "slow.py")
    (folder / "slow.py").write_text("")
    slow = Step("script@slow", "python slow.py", ("b", "slow.py"), (), {})
    outcomes, ran = run(folder, copy("a", "b"), slow)
    assert ran == ["script@slow"]
    assert outcomes["script@slow"].status == "ok"


class LacksAGpu(Local):
    """An engine without a machine that has what one stage needs."""

    def run(self, command: Command, resources: Resources) -> CommandResult:
        if resources.gpus:
            raise RuntimeUnavailableError("no machine can run the task", got="0 GPUs")
        return super().run(command, resources)


def test_a_step_that_the_engine_cannot_run_stops_no_other(folder: Path) -> None:
    steps = copy("a", "b", stage="on_gpu"), copy("a", "c")
    runner = Runner(
        folder,
        60,
        execution=LacksAGpu(),
        resources=lambda step: Resources(gpus=int(step.stage == "on_gpu")),
    )
    outcomes = runner.run(steps, producers(steps), processes=2, report=lambda *_: None)
    assert [one.status for one in outcomes.values()] == ["failed", "ok"]
    assert outcomes["on_gpu@b"].reason == "no machine can run the task; got: 0 GPUs"
