"""The stages of ``dvc.yaml``, one step for each model, artifact and job that they loop over."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from detexport.errors import ConfigError

REFERENCE = re.compile(r"\$\{([\w.]+)\}")


@dataclass(frozen=True)
class Step:
    """One command of the pipeline.

    Args:
        name: ``stage@key``, or the stage's name if it does not loop.
        cmd: the command line; paths are relative to the folder that the pipeline runs in.
        deps: files and folders that it reads, its own code included.
        outs: files and folders that it writes.
        params: the parameters that it reads, by dotted name.
    """

    name: str
    cmd: str
    deps: tuple[str, ...]
    outs: tuple[str, ...]
    params: dict[str, Any]

    @property
    def stage(self) -> str:
        """The stage's name."""
        return self.name.partition("@")[0]


def read_steps(stages: Mapping[str, Any], params: Mapping[str, Any], names: Iterable[str]) -> list[Step]:
    """Expand the loops and parameters of stages in ``dvc.yaml``.

    Args:
        stages: the value of ``stages`` in ``dvc.yaml``.
        params: the value of ``params.yaml``.
        names: the stages to expand.

    Raises:
        ConfigError: a stage refers to a parameter that does not exist.
    """
    return [step for name in names for step in _steps(name, stages[name], params)]


def _steps(name: str, stage: Mapping[str, Any], params: Mapping[str, Any]) -> Iterator[Step]:
    if "foreach" not in stage:
        yield _step(name, stage, params)
        return
    for key, item in _value(stage["foreach"], params).items():
        yield _step(f"{name}@{key}", stage["do"], {**params, "key": key, "item": item})


def _step(name: str, stage: Mapping[str, Any], values: Mapping[str, Any]) -> Step:
    return Step(
        name=name,
        cmd=_filled(stage["cmd"], values),
        deps=tuple(_filled(dep, values) for dep in stage.get("deps", ())),
        outs=tuple(
            _filled(out, values) for kind in ("outs", "metrics") for out in _paths(stage.get(kind, ()))
        ),
        params={
            key: lookup(values, key) for key in (_filled(key, values) for key in stage.get("params", ()))
        },
    )


def _paths(outs: Sequence[Any]) -> list[str]:
    """Return the paths of outs, some of which are mappings to options."""
    return [next(iter(out)) if isinstance(out, Mapping) else out for out in outs]


def _filled(text: str, values: Mapping[str, Any]) -> str:
    return REFERENCE.sub(lambda match: str(lookup(values, match[1])), text)


def _value(text: str, values: Mapping[str, Any]) -> Any:
    match = REFERENCE.fullmatch(text)
    return lookup(values, match[1]) if match else text


def lookup(values: Mapping[str, Any], key: str) -> Any:
    """Return the value of a dotted name.

    Raises:
        ConfigError: the name does not exist.
    """
    node: Any = values
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            raise ConfigError("dvc.yaml refers to a parameter that does not exist", got=key)
        node = node[part]
    return node


def producers(steps: Iterable[Step]) -> dict[str, tuple[Step, ...]]:
    """Return for each step, by name, the steps that write what it reads."""
    steps = tuple(steps)
    writers = {out: index for index, step in enumerate(steps) for out in step.outs}
    below: dict[str, set[int]] = {}
    for out, index in writers.items():
        for folder in map(str, PurePosixPath(out).parents):
            below.setdefault(folder, set()).add(index)
    before = {}
    for index, step in enumerate(steps):
        paths = {path for dep in step.deps for path in (dep, *map(str, PurePosixPath(dep).parents))}
        found = {writers[path] for path in paths if path in writers}
        found = found.union(*(below.get(dep, set()) for dep in step.deps)) - {index}
        before[step.name] = tuple(steps[other] for other in sorted(found))
    return before


def needed(goals: Iterable[Step], before: Mapping[str, tuple[Step, ...]]) -> list[Step]:
    """Return the goals and all steps that they depend on, each once, in dependency order."""
    ordered: dict[str, Step] = {}

    def add(step: Step) -> None:
        if step.name not in ordered:
            for other in before[step.name]:
                add(other)
            ordered[step.name] = step

    for goal in goals:
        add(goal)
    return list(ordered.values())


def inside(path: str, folder: str) -> bool:
    """Return whether ``path`` is ``folder`` or below it."""
    return PurePosixPath(path).is_relative_to(folder)
