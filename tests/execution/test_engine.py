"""The engine of this machine: items on demand, commands with their limits, nothing left behind."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Thread

from detexport.execution.engine import Command, Local, Resources, run_command


def command(folder: Path, code: str, time_limit_s: float = 60) -> Command:
    (folder / "program.py").write_text(code)
    return Command(("program.py",), folder, folder / "logs" / "log", {"COLOUR": "red"}, time_limit_s)


def test_items_are_computed_when_they_are_asked_for() -> None:
    done: list[int] = []
    results = Local().map(lambda: done.append, [1, 2, 3])
    next(results)
    assert done == [1]
    assert list(results) == [None, None]


def test_a_command_is_the_program_itself(tmp_path: Path) -> None:
    code = "import os, sys; print(sys.argv, os.getcwd(), os.environ['COLOUR']); sys.exit(7)"
    ended = Local().run(command(tmp_path, code), Resources())
    assert (ended.code, ended.late) == (7, False)
    assert (tmp_path / "logs/log").read_text() == f"['program.py'] {tmp_path} red\n"


def test_a_command_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    ended = run_command(command(tmp_path, "import time; time.sleep(60)", time_limit_s=1))
    assert (ended.code, ended.late) == (-9, True)


def test_stopping_kills_what_runs(tmp_path: Path) -> None:
    engine = Local()
    ended = []
    runner = Thread(
        target=lambda: ended.append(
            engine.run(
                command(tmp_path, "open('there', 'w').close(); import time; time.sleep(60)"), Resources()
            )
        )
    )
    runner.start()
    wait_for(tmp_path / "there")
    engine.stop()
    runner.join(30)
    assert [one.code for one in ended] == [-9]


NOTES_ITS_TIME = """
import sys, time
began = time.monotonic()
time.sleep(0.5)
open(sys.argv[1], "w").write(f"{began} {time.monotonic()}")
"""


def test_a_command_that_is_alone_runs_while_no_other_does(tmp_path: Path) -> None:
    engine = Local()
    one = command(tmp_path, NOTES_ITS_TIME)

    def run(name: str) -> None:
        arguments = (*one.arguments, name)
        command = replace(one, arguments=arguments, log=tmp_path / f"{name}.log")
        assert engine.run(command, Resources(alone=name == "alone")).code == 0

    with ThreadPoolExecutor(5) as pool:
        list(pool.map(run, ["a", "b", "alone", "c", "d"]))
    times = {name: (tmp_path / name).read_text().split() for name in ("a", "b", "alone", "c", "d")}
    began, ended = map(float, times.pop("alone"))
    assert all(float(end) <= began or float(start) >= ended for start, end in times.values())


PARENT = """
import sys
from pathlib import Path
from detexport.execution.engine import Command, run_command
folder = Path(sys.argv[1])
run_command(Command(("program.py",), folder, folder / "log", {}, 60))
"""


def test_a_command_ends_with_the_process_that_runs_it(tmp_path: Path) -> None:
    command(tmp_path, "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(60)")
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)])
    wait_for(tmp_path / "pid")
    pid = (tmp_path / "pid").read_text()
    parent.kill()
    parent.wait()
    until = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]:
        assert time.monotonic() < until
        time.sleep(0.05)


def wait_for(path: Path) -> None:
    until = time.monotonic() + 60
    while not path.exists() or (path.name == "pid" and not path.read_text()):
        assert time.monotonic() < until
        time.sleep(0.05)
    assert os.path.exists(path)
