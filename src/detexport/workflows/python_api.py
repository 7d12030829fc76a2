"""``detexport.export`` and ``detexport.validate``: the workflows of the command line, called from Python."""

import json
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from detexport.artifact import MANIFEST, Artifact, read_verified
from detexport.errors import ConfigError
from detexport.formats.image_files import find_images
from detexport.parity.verdict import ParityReport
from detexport.system.extras import extra_imports
from detexport.system.progress import showing
from detexport.targets.table import find_target, require_target_packages
from detexport.workflows.choose_runtime import OnDevice, asked_target, engine_of
from detexport.workflows.expected_outputs import named_alike
from detexport.workflows.export_checks import check_inputs, check_output
from detexport.workflows.validate_against import validate_against, without_accuracy

if TYPE_CHECKING:
    from torch import nn

Model: TypeAlias = "nn.Module | str | Path"
Images: TypeAlias = "str | Path | Sequence[str | Path]"
"""Image files, folders with images, or patterns such as ``photos/*.jpg``."""


def export(
    model: "Model",
    weights: str | Path = "",
    *,
    output: str | Path,
    target: str = "onnx",
    sample: "Images" = (),
    calibration: "Images" = (),
    options: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    allow_new: Sequence[str] = (),
    class_names: Sequence[str] = (),
    data: str | Path | None = None,
    device: str = "cpu",
    check: bool = True,
    progress: bool | None = None,
) -> Artifact:
    """Export a model, and write the artifact if it passes the check against the model.

    Args:
        model: a model of ``detexport.modeling``, or a FasterRCNN, MaskRCNN, KeypointRCNN, RetinaNet, FCOS or
            SSD of torchvision, in evaluation mode on the CPU; or detectron2 YAML by path or by its name in
            the model zoo.
        weights: of a configuration: a checkpoint by path, ``https://`` or ``detectron2://``; by default its
            ``MODEL.WEIGHTS``, of a name in the zoo the checkpoint that was trained with it.
        output: folder of the artifact. It is replaced as a whole if it is an artifact, and left as it is if
            anything fails.
        target: what to make: a name in ``detexport.targets.table.targets``.
        sample: images of the model's domain: the first is the example input of the export, all are inputs of
            the check. By default a bundled image.
        calibration: calibration images for int8; by default the training images of ``data``, else ``sample``.
        options: options of the export method and the conversions, such as ``{"opset_version": 20}``.
        overrides: keys and values in turn, which override the configuration.
        allow_new: patterns of parameters that the weights may lack; they keep their initial values.
        class_names: the name of each class; by default those of ``data``, else of the data set that the
            configuration names, else numbers.
        data: data set in COCO's layout (``images/val``, ``annotations/instances_val.json``). Targets of
            reduced precision need it: they are checked by the average precision on it.
        device: the device that the artifact is compiled for and checked on.
        check: whether the artifact is compared with the model, within the tolerances of
            ``conf/parity/default.yaml``.
        progress: whether steps and bars are shown on the standard error; by default if that is a terminal.

    Returns:
        The manifest of the artifact in ``output``; ``detexport.load(output)`` loads it.

    Raises:
        CheckpointError: there are no such weights, or they are not the model's.
        ConfigError: an argument does not fit the model, the target or the data.
        DataError: there is no such image or data set.
        ExportError: the model cannot be exported, or the artifact does not pass the check.
        MissingPackageError: packages that the target needs are not installed.
        OutputError: the folder cannot be written.
        RuntimeUnavailableError: the runtime or the device is not on this machine.
    """
    images, calibration_images = _files(sample), _files(calibration)
    output, data = Path(output), Path(data) if data is not None else None
    check_inputs(target, images=images, calibration=calibration_images, data=data, check=check)
    check_output(output)
    require_target_packages(find_target(target))
    with extra_imports():
        from detexport.workflows.export_target import export_target
        from detexport.workflows.given_model import given_model

    with showing(progress) as step:
        with step("build the model and load its weights"):
            loaded = given_model(model, weights, overrides=overrides, allow_new=allow_new)
        return export_target(
            loaded,
            target,
            output,
            # JSON is YAML, which options are read as.
            options=[f"{name}={json.dumps(value)}" for name, value in (options or {}).items()],
            images=images,
            calibration=calibration_images,
            class_names=tuple(class_names),
            data=data,
            device=device,
            check=check,
            step=step,
            on_result=_warn_if_empty,
            on_warning=partial(warnings.warn, stacklevel=4),  # the caller of ``detexport.export``
        )


def validate(
    artifact_dir: str | Path,
    other: "Model",
    weights: str | Path = "",
    *,
    data: str | Path | None = None,
    sample: "Images" = (),
    target: str = "",
    other_target: str = "",
    images: int = 8,
    accuracy_images: int = 100,
    device: str = "cpu",
    overrides: Sequence[str] = (),
    allow_new: Sequence[str] = (),
    save_dir: str | Path | None = None,
) -> ParityReport:
    """Compare an artifact with its model, or with another artifact of the same model.

    With ``data`` the validation is that of ``detexport validate`` and of the pipeline: images of the data set
    at three sizes, edge-case inputs, the noise floor of the model, the task metric. Without ``data`` a model
    is compared on ``sample`` alone, as ``export`` does.

    Args:
        artifact_dir: folder of the artifact.
        other: the model, as ``export`` takes it, or the folder of another artifact, which needs ``data``.
        weights: of a configuration: see ``export``.
        data: data set in COCO's layout.
        sample: without ``data``: image files, folders or patterns; by default a bundled image.
        target: run the artifact as this target; by default in its format's runtime, in float32.
        other_target: run the other artifact as this target.
        images: number of images of ``data``.
        accuracy_images: number of annotated images for the task metric; 0 leaves it out.
        device: where artifacts run.
        overrides: of a configuration: see ``export``.
        allow_new: of a configuration: see ``export``.
        save_dir: with ``data``: folder for the report and its certificate; an interrupted validation is
            continued there.

    Returns:
        The report: ``passed``, ``reasons``, ``verdicts``; ``to_json`` has the largest errors (``max``), the
        numbers of detections and the measurements of each input.

    Raises:
        ArtifactError: a folder is not an artifact, its files were changed, or the two are of other models.
        ConfigError: an argument does not fit the artifact or the model.
        DataError: there is no such image or data set, or it lacks what the task metric needs.
        RuntimeUnavailableError: a runtime is not on this machine.
    """
    folder, files = Path(artifact_dir), _files(sample)
    data, save_dir = (Path(path) if path is not None else None for path in (data, save_dir))
    if data is not None and files:
        raise ConfigError(
            "an artifact is validated on a data set or on images",
            got="data and sample",
            expected="one of them",
            remedy="leave one out",
        )
    given: Any = other
    if isinstance(other, str | Path) and (Path(other) / MANIFEST).is_file():
        given = Path(other)
    else:
        with extra_imports():
            from detexport.workflows.given_model import given_model

        given = given_model(other, weights, overrides=overrides, allow_new=allow_new)
        if data is None:
            return _check(folder, given, files, target=target, device=device)
    return validate_against(
        folder,
        given,
        data=data,
        target=target,
        other_target=other_target,
        images=images,
        accuracy_images=accuracy_images,
        device=device,
        save_dir=save_dir,
    )


def _check(folder: Path, model: Any, images: Sequence[Path], *, target: str, device: str) -> ParityReport:
    """Compare an artifact with its model on a few images."""
    from detexport.data.image_samples import BUNDLED_SAMPLE
    from detexport.parity.accuracy import FLOAT32
    from detexport.workflows.check_artifact import check_artifact

    artifact = read_verified(folder)
    asked = asked_target(artifact, target)
    precision = (asked.precision if asked else "") or FLOAT32
    if precision != FLOAT32:
        raise without_accuracy(precision, "no data")
    model = replace(model, contract=named_alike(model.contract, artifact.contract))
    with tempfile.TemporaryDirectory() as temporary:
        report = check_artifact(
            folder,
            OnDevice(engine_of(folder, target), device),
            model,
            images or [BUNDLED_SAMPLE],
            Path(temporary) / "reference",
            job=f"{folder} against {model.name}",
        )
    _warn_if_empty(report)
    return report


def _warn_if_empty(result: Any) -> None:
    """Warn if no detection was compared, since the model detects nothing on the images."""
    if isinstance(result, ParityReport) and result.lacks_detections:
        warnings.warn(
            "the model detects nothing on these images, so no detection was compared; give sample=...",
            stacklevel=2,
        )


def _files(images: "Images") -> list[Path]:
    """Return image files from files, folders and patterns.

    Raises:
        DataError: there are none.
    """
    return find_images([str(images)] if isinstance(images, str | Path) else [str(one) for one in images])
