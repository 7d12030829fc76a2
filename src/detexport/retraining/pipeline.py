"""A project's DVC pipeline, driven by its commands: fetch, check, run, push."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml

from detexport.errors import BROKEN, REQUEST, VERDICT, ConfigError, DetexportError
from detexport.system.process import redacted_output

NEEDED = ("dvc.yaml", "params.yaml", "tools/preflight.py")
"""Files of a project that a retraining run uses."""
KEPT_LINES = 400
GRACE_S = 30.0
"""Time in seconds in which a pipeline that is ended can remove its partial outputs."""
STAGE = re.compile(r"^ERROR: failed to reproduce '([^']+)'", re.M)
EXIT_CODE = re.compile(r"exited with (-?\d+)\s*$", re.M)
ERROR = re.compile(r"^(?:error|ERROR): (.+)$", re.M)
OWN_ERROR = re.compile(r"^error: ", re.M)
"""A script of the project prints this with its exit code; Python ends with 1 and 2 for reasons of its own."""


class PipelineError(DetexportError):
    """A command of the pipeline failed for a reason of the machine, the network or the program."""

    exit_code = BROKEN


class PipelineRequestError(PipelineError):
    """A command of the pipeline failed because the project asks for something invalid."""

    exit_code = REQUEST


@dataclass(frozen=True)
class Done:
    """A command that ended.

    Args:
        code: its exit code.
        output: the last lines of its standard output and error.
    """

    code: int
    output: str

    @property
    def stage(self) -> str:
        """The stage that failed; empty if none did."""
        found = STAGE.search(self.output)
        return found[1] if found else ""

    @property
    def error(self) -> str:
        """The first line that is an error: of the stage that failed, if one did."""
        last = self._last_output
        found = ERROR.search(last)
        return found[1] if found else last.strip().rpartition("\n")[2]

    @property
    def own_code(self) -> int:
        """The code of a script of the project that printed its error; ``BROKEN`` for any other failure."""
        code = EXIT_CODE.search(self.output) if self.stage else None
        own = int(code[1]) if code else self.code
        return own if OWN_ERROR.search(self._last_output) else BROKEN

    @property
    def _last_output(self) -> str:
        return self.output.rpartition(f"Running stage '{self.stage}'")[2]


@dataclass(frozen=True)
class Refusal:
    """A stage that ended with a failed verdict.

    Args:
        stage: its name.
        reason: its error.
    """

    stage: str
    reason: str


@dataclass(frozen=True)
class Pipeline:
    """The pipeline of a project.

    Args:
        root: the project's folder, a git checkout with ``dvc.yaml``.

    Raises:
        ConfigError: the folder is not such a project.
    """

    root: Path

    def __post_init__(self) -> None:
        missing = [name for name in NEEDED if not (self.root / name).is_file()]
        if missing or not (self.root / ".dvc").is_dir():
            raise ConfigError(
                f"{self.root} is not a project with a pipeline",
                got=f"no {', no '.join(missing or ['.dvc'])}",
                expected=f"a checkout with {', '.join(NEEDED)}, where `dvc init` was run",
                remedy="name the checkout by --project (in Python: project)",
            )

    def update_imports(self) -> None:
        """Update all data that ``dvc import`` and ``dvc import-url`` brought.

        Raises:
            PipelineError: a source cannot be reached.
        """
        imports = [path for path in self._tracked() if is_import(self.root / path)]
        if imports:
            self._require("dvc", "update", *imports)

    def pull(self) -> None:
        """Download the data and the results that the default remote has, if there is one.

        Local changes of tracked data are kept. Results of an interrupted run are replaced.

        Raises:
            PipelineError: the remote cannot be reached, or tracked data were changed and not committed.
        """
        if not self.has_remote:
            return
        if data := self._tracked():
            done = self._run("dvc", "pull", *data)
            if "unsaved files" in done.output:
                raise PipelineRequestError(
                    "tracked data were changed here and not committed to DVC",
                    got=done.output.strip().rpartition("\n")[2],
                    expected="data as their .dvc file says, so that newer data can be pulled",
                    remedy="keep the change with `dvc add`, or drop it with `dvc checkout --force`",
                )
            self._checked(done, "dvc", "pull")
        self._require("dvc", "pull", "--run-cache", "--force", "--allow-missing", "dvc.yaml")

    @cached_property
    def has_remote(self) -> bool:
        """Whether DVC has a default remote."""
        return bool(self._run("dvc", "config", "core.remote", shown=False).output.strip())

    def preflight(self) -> None:
        """Check the parameters and clean up after killed runs, as ``make repro`` does.

        Raises:
            PipelineError: the parameters are not a composition of ``conf/``, or the registry is unreachable.
        """
        self._require(sys.executable, "tools/preflight.py")

    def stale(self) -> list[str]:
        """Return the stages and data that are out of date.

        Raises:
            PipelineError: the pipeline cannot be read, or another process uses it.
        """
        done = self._checked(
            self._run("dvc", "status", "--json", "--no-updates", shown=False), "dvc", "status"
        )
        found: dict[str, object] = json.loads(done.output.strip().splitlines()[-1])
        return list(found)

    def repro(self, *targets: str, refusals: Sequence[int] = (VERDICT,)) -> Refusal | None:
        """Run what is out of date; return the refusal if a stage ended with a failed verdict.

        Args:
            *targets: stages to run with those that they depend on; all if empty.
            refusals: exit codes of a stage that are refusals, not errors.

        Raises:
            PipelineRequestError: a stage reports an invalid request.
            PipelineError: a stage failed with another code, or DVC itself failed.
        """
        done = self._run("dvc", "repro", *targets)
        if done.code and done.stage and done.own_code in refusals:
            return Refusal(done.stage, done.error)
        self._checked(done, "dvc", "repro")
        return None

    def push(self) -> bool:
        """Upload data and results to the default remote; return False if there is no remote.

        Raises:
            PipelineError: the remote cannot be reached.
        """
        if not self.has_remote:
            return False
        self._require("dvc", "push", "--run-cache")
        return True

    def _tracked(self) -> list[str]:
        """Return the ``.dvc`` files of the project."""
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", "*.dvc"]
        listed = subprocess.run(command, cwd=self.root, capture_output=True, text=True, check=False)
        if listed.returncode:
            raise ConfigError(
                f"{self.root} is not a git checkout",
                got=listed.stderr.strip(),
                expected="a checkout, which DVC keeps its files in",
                remedy="name the checkout: --project",
            )
        names = sorted(set(filter(None, listed.stdout.split("\0"))))
        return [name for name in names if (self.root / name).is_file()]

    def _require(self, *command: str) -> Done:
        return self._checked(self._run(*command), *command)

    def _checked(self, done: Done, *command: str) -> Done:
        """Raise the error of a command that failed."""
        if done.code == 0:
            return done
        # DVC uses its own exit codes, from 1; a script of the project has ours.
        is_ours = bool(done.stage) or command[0] == sys.executable
        is_request = is_ours and done.own_code == REQUEST
        name = f"the stage {done.stage}" if done.stage else " ".join(Path(part).name for part in command[:2])
        raise (PipelineRequestError if is_request else PipelineError)(
            f"{name} failed", got=done.error, expected="exit code 0", remedy="see its output above"
        )

    def _run(self, *command: str, shown: bool = True) -> Done:
        """Run a command in the project's folder; show its output, and keep the end of it."""
        words = [sys.executable, "-m", *command] if command[0] == "dvc" else list(command)
        process = subprocess.Popen(
            words,
            cwd=self.root,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        assert process.stdout is not None
        kept: deque[str] = deque(maxlen=KEPT_LINES)
        try:
            with redacted_output():
                for line in process.stdout:
                    kept.append(line)
                    if shown:
                        print(line, end="", flush=True)
            return Done(process.wait(), "".join(kept))
        except BaseException:  # a signal that ends the job, too
            _end(process)
            raise


def is_import(path: Path) -> bool:
    """Return whether a ``.dvc`` file is of ``dvc import`` or ``dvc import-url``."""
    content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    return bool(content.get("frozen") and content.get("deps"))


def environment() -> dict[str, str]:
    """Return the environment of the pipeline's commands.

    Stages start ``python``: that of this process, also if a scheduler's PATH names none.
    """
    path: Sequence[str] = (str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath))
    kept = {name: value for name, value in os.environ.items() if name != "DVC_ROOT"}
    return {**kept, "PATH": os.pathsep.join(path)}


def _end(process: subprocess.Popen[str]) -> None:
    """End a command with all processes that it started, also those that outlive it.

    DVC ends at SIGTERM, but a stage in native code does not see the signal before that code returns.
    """
    until = time.monotonic() + GRACE_S
    try:
        left = _signal(process, signal.SIGTERM)
        while left and time.monotonic() < until:
            time.sleep(0.1)
            left = _signal(process, 0)
    finally:
        _signal(process, signal.SIGKILL)
        process.wait()


def _signal(process: subprocess.Popen[str], number: int) -> bool:
    """Send a signal to a command's process group; return False if no process of it is left."""
    process.poll()  # an ended process that nobody waited for is still in the group
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return False
    return True
