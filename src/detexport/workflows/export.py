"""Export: a model -> an artifact, in place by one rename, or nothing."""

import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from detexport.artifact import Artifact, read_artifact
from detexport.system.atomic import atomic_dir
from detexport.system.files import output_errors
from detexport.system.progress import Step, silent
from detexport.workflows.loaded_model import LoadedModel


def export(
    model: LoadedModel,
    steps: Mapping[str, Any],
    sample: np.ndarray,
    save_dir: Path,
    *,
    calibration: Iterable[np.ndarray] = (),
    check: Callable[[Path], None] | None = None,
    step: Step = silent,
) -> Artifact:
    """Export a model, convert and check the artifact, and only then move it to its folder.

    Args:
        model: on the CPU.
        steps: an export method and its conversions, by the name of the artifact.
        sample: uint8 (C, H, W), the example input, resized by the contract's rule.
        save_dir: folder of the artifact; an existing artifact is replaced.
        calibration: calibration images for int8, like ``sample``.
        check: called with the folder of the finished artifact; raises if it is not to be kept.
        step: see ``Step``.

    Raises:
        ExportError: the model cannot be exported by the method, or what ``check`` raises.
        OutputError: ``save_dir`` cannot be written.
    """
    (method_name, method), *conversions = steps.items()
    with output_errors(save_dir), atomic_dir(save_dir) as folder:
        with step(f"{method_name} (1 of {len(steps)})"):
            made = folder / ".artifacts" / method_name
            method.export(model.net, sample, made, contract=model.contract, provenance=model.provenance)
        for number, (name, conversion) in enumerate(conversions, start=2):
            with step(f"{name} ({number} of {len(steps)})"):
                source, made = made, made.with_name(name)
                conversion.convert(source, calibration, made)
        if check is not None:
            check(made)
        return _promote(made, folder)


def _promote(made: Path, folder: Path) -> Artifact:
    """Move the finished artifact into ``folder``, and remove those that it was converted from."""
    for path in made.iterdir():
        path.replace(folder / path.name)
    shutil.rmtree(made.parent)
    return read_artifact(folder)
