"""Check a request before torch is imported: names, files, options, ranges, combinations.

A mistake is reported in the time of ``--help``. The model, the data and the runtime check the rest.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from detexport.artifact import MANIFEST, read_artifact
from detexport.config.cfg import CfgNode
from detexport.config.meta_architectures import configured_classes, pools_regions
from detexport.errors import (
    ArtifactError,
    ConfigError,
    DataError,
    OutputError,
    did_you_mean,
    listed,
    shown,
)
from detexport.formats.image_files import SUFFIXES, find_images
from detexport.system.extras import require_packages
from detexport.targets.opsets import check_opset_version
from detexport.targets.table import (
    Target,
    artifact_chain,
    artifacts,
    find_target,
    parse_options,
    require_target_packages,
)
from detexport.workflows.export_checks import check_inputs, check_output
from detexport.workflows.load_detector import is_registered
from detexport.workflows.model_folder import require_other_side
from detexport.workflows.model_source import ModelSource, check_weights, find_source

DEVICE = re.compile(r"cpu|cuda(:\d{1,4})?")


@dataclass(frozen=True)
class Request:
    """The options of an export: see ``detexport export --help``."""

    config_file: str
    weights: str
    target: str
    output: Path
    samples: tuple[str, ...] = ()
    calibration: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    data: Path | None = None
    run_eval: bool = False
    device: str = "cpu"
    check: bool = True
    overrides: tuple[str, ...] = ()
    allow_new: tuple[str, ...] = ()

    @property
    def model(self) -> ModelSource:
        """Return the model to export."""
        return ModelSource(self.config_file, self.weights, self.overrides, self.allow_new)


def check_export(request: Request) -> Request:
    """Check the request of an export; return it with images moved from KEY VALUE to their option.

    Raises:
        ConfigError: a name, an option or a range is wrong, or options do not fit together.
        CheckpointError: there are no such weights.
        DataError: there is no such image or data set.
        OutputError: no artifact can be written there.
        MissingPackageError: packages that the target needs are not installed.
    """
    request = take_images(request)
    target = find_target(request.target)
    check_device(request.device)
    options = parse_options(target.artifact, list(request.options))
    check_request(request)
    check_writable(request.output)
    if request.data is not None:
        check_data(request.data)
    find_images((*request.samples, *request.calibration))
    cfg = request.model.read_config()
    check_weights(cfg.MODEL.WEIGHTS)
    check_class_names(request, cfg)
    check_device_option(request, options)
    require_target_packages(target)
    check_opset(target, options, cfg)
    return request


def check_predict(
    source: str | Path,
    images: Iterable[str],
    *,
    draw_to: Path | None,
    device: str,
    target: str,
    engine: str = "local",
) -> None:
    """Check the request of ``detexport predict`` without ``--output``.

    Raises:
        ArtifactError: the folder is not an artifact.
        ConfigError: there is no such device or target, or ``engine`` is given, which needs ``--output``.
        DataError: there is no such image.
        OutputError: the folder for drawings cannot be written.
    """
    if engine != "local":
        raise ConfigError(
            "--engine needs --output",
            got=f"--engine {engine}",
            expected="--output, a folder or a URL",
            remedy="add --output, or omit --engine",
        )
    check_device(device)
    find_images(images)
    check_source(source, target)
    if draw_to is not None:
        check_writable(draw_to)


ENGINES, RESULT_FORMATS = ("local", "ray"), ("parquet", "coco")


def check_predict_folder(
    source: str,
    images: Sequence[str],
    *,
    others: Mapping[str, bool],
    device: str,
    target: str,
    result_format: str,
    engine: str,
) -> None:
    """Check the request of ``detexport predict --output``.

    Args:
        source: folder of an artifact, or a model in MLflow.
        images: the folder or URL, exactly one.
        others: options that exclude ``--output``, and whether each is given.
        device: value of ``--device``.
        target: value of ``--target``.
        result_format: value of ``--format``.
        engine: value of ``--engine``.

    Raises:
        ArtifactError: the folder is not an artifact.
        ConfigError: a name is unknown, or options cannot be combined.
        MissingPackageError: the engine's packages are not installed.
    """
    for option, value, known in (
        ("--engine", engine, ENGINES),
        ("--format", result_format, RESULT_FORMATS),
    ):
        if value not in known:
            raise ConfigError(
                f"unknown {option}",
                got=value,
                expected=" or ".join(known),
                remedy=did_you_mean(value, known) or f"choose one: {option} {known[0]}",
            )
    if given := [option for option, is_given in others.items() if is_given]:
        raise ConfigError(
            "these options cannot be combined with --output",
            got=listed(given),
            expected="--output alone, which writes files",
            remedy=f"omit {given[0]}",
        )
    if len(images) != 1:
        raise ConfigError(
            "--output needs exactly one folder or URL of images",
            got=listed(images),
            expected="one folder or URL; subfolders are searched, too",
            remedy="run the command once per folder, each with its own --output",
        )
    check_device(device)
    check_source(source, target)
    require_packages("pyarrow", "fsspec", *(["ray"] if engine == "ray" else []))


def check_source(source: str | Path, target: str) -> None:
    """Check an artifact's folder, or the packages that a model in MLflow needs, and the target.

    Raises:
        ArtifactError: the folder is not an artifact.
        ConfigError: there is no such target, or it does not run artifacts of this format.
        MissingPackageError: MLflow is not installed.
    """
    if is_registered(source):
        if target:
            find_target(target)
        require_packages("mlflow")
    else:
        check_target(target, Path(source))


def check_serve(source: str, *, target: str, device: str) -> None:
    """Check the request of ``detexport serve``.

    Raises:
        ArtifactError: the folder is not an artifact.
        ConfigError: there is no such device or target.
        MissingPackageError: the server's packages, or those of the registry, are not installed.
    """
    check_device(device)
    if target:
        find_target(target)
    registered = is_registered(source)
    if not registered:
        check_target(target, Path(source))
    require_packages("fastapi", "uvicorn", "python_multipart", "prometheus_client")
    if registered:
        require_packages("mlflow")


def check_package_request(source: str, output: Path, *, name: str, target: str) -> None:
    """Check the request of ``detexport package``.

    Raises:
        ArtifactError: the folder is not an artifact.
        ConfigError: there is no such target, or the name has other characters than a model's.
        OutputError: the package cannot be written there.
    """
    if target:
        find_target(target)
    if name and not re.fullmatch(r"\w[\w.-]{0,99}", name, re.ASCII):
        raise ConfigError(
            "invalid name of a model",
            got=shown(name),
            expected="letters, digits, '_', '-' and '.', not first '-' or '.'",
            remedy="choose another --name",
        )
    if is_registered(source):
        require_packages("mlflow")
    else:
        check_target(target, Path(source))
    check_writable(output)


def check_inspect(artifact_dir: Path, dump_to: Path | None) -> None:
    """Check the request of ``detexport inspect``.

    Raises:
        ArtifactError: the folder is not an artifact.
        OutputError: the folder for the dump cannot be written.
    """
    check_artifact(artifact_dir)
    if dump_to is not None:
        check_writable(dump_to)


def check_validate(
    artifact_dir: Path,
    *,
    data: Path | None,
    against: Path | None,
    model: ModelSource | None,
    target: str,
    against_target: str,
    device: str,
    save_dir: Path | None,
    params: Path | None = None,
) -> None:
    """Check the request of ``detexport validate``.

    Args:
        artifact_dir: the artifact.
        data: the data set.
        against: another artifact to compare with.
        model: the model to compare with.
        target: target that the artifact is run as.
        against_target: target that the other artifact is run as.
        device: where they run.
        save_dir: folder of the results.
        params: a project's ``params.yaml``.

    Raises:
        ArtifactError: a folder is not an artifact.
        CheckpointError: there are no such weights.
        ConfigError: there is no such device, target or configuration, or a key is wrong.
        DataError: there is no such data set.
        OutputError: the folder for the results cannot be written.
    """
    check_device(device)
    check_target(target, artifact_dir)
    if against is not None:
        check_target(against_target, against)
    elif against_target:
        raise ConfigError(
            "--against-target needs another artifact",
            got=f"--against-target {against_target}, no --against",
            expected="both, or neither",
            remedy="give --against, or leave out --against-target",
        )
    check_one_other_side(against, model)
    require_other_side(artifact_dir, is_given=against is not None or model is not None, data=data)
    if data is not None:
        check_data(data)
    if model is not None:
        check_weights(model.read_config().MODEL.WEIGHTS)
    if save_dir is not None:
        check_writable(save_dir)
    if params is not None:
        from detexport.parity.settings import read_parity_settings

        read_parity_settings(params)


def check_model_is_named(model: ModelSource) -> None:
    """Raise ConfigError if weights or keys of a model are given without its configuration."""
    given = [
        *(["--weights"] if model.weights else []),
        *(["--allow-new"] if model.allow_new else []),
        *model.overrides[::2],
    ]
    if given and not model.config_file:
        raise ConfigError(
            "options of a model are given without its configuration",
            got=f"{listed(given)}, no --config-file",
            expected="both, or neither",
            remedy="give --config-file, or leave the others out",
        )


def check_one_other_side(against: Path | None, model: ModelSource | None) -> None:
    """Raise ConfigError if an artifact is to be compared with a model and with another artifact."""
    if against is not None and model is not None:
        raise ConfigError(
            "an artifact is compared with a model or with another artifact, not with both",
            got=f"--against {against} and --config-file {model.config_file}",
            expected="one of them",
            remedy="leave one out",
        )


def check_diagnose(
    artifact_dir: Path, model: ModelSource, *, image: str, target: str, save_dir: Path | None
) -> None:
    """Check the request of ``detexport diagnose``; in the pipeline's folders the model is found there.

    Raises:
        ArtifactError: the folder is not an artifact.
        CheckpointError: there are no such weights.
        ConfigError: there is no such target or configuration, or a key is wrong.
        DataError: there is no such image.
        OutputError: the folder for the results cannot be written.
    """
    check_target(target, artifact_dir)
    if image:
        find_images([image])
    check_weights(find_source(artifact_dir, model).read_config().MODEL.WEIGHTS)
    if save_dir is not None:
        check_writable(save_dir)


def take_images(request: Request) -> Request:
    """Move images from KEY VALUE to the option that they belong to.

    A shell expands a pattern without quotes to many images; only the first is the option's value, and the
    others are parsed as KEY VALUE.

    Raises:
        ConfigError: they may belong to either option.
    """
    images, overrides = [], []
    rest = list(request.overrides)
    while rest:
        if Path(rest[0]).suffix.lower() in SUFFIXES:
            images.append(rest.pop(0))
        else:
            overrides += rest[:2]
            del rest[:2]
    if images and bool(request.samples) == bool(request.calibration):
        raise ConfigError(
            "there are images where KEY VALUE is expected",
            got=listed(images),
            expected="images after --sample, or after --calibration where there is no --sample",
            remedy="put a pattern into quotes: --sample 'photos/*.jpg'",
        )
    request = replace(request, overrides=tuple(overrides))
    if request.samples:
        return replace(request, samples=(*request.samples, *images))
    return replace(request, calibration=(*request.calibration, *images))


def check_request(request: Request) -> None:
    """Check that an export's options fit together, and that its output replaces nothing but an artifact.

    Raises:
        ConfigError: data or images are missing, or the output folder holds something else.
        OutputError: no artifact can take the place of the output folder.
    """
    check_inputs(
        request.target,
        images=request.samples,
        calibration=request.calibration,
        data=request.data,
        check=request.check,
        evaluate=request.run_eval,
    )
    check_output(request.output)


def check_class_names(request: Request, cfg: CfgNode) -> None:
    """Raise ConfigError unless there is a name for each class that the configuration counts."""
    names, count = request.class_names, configured_classes(cfg)
    if not all(names):
        raise ConfigError(
            "a class has no name",
            got=f"--class-names {','.join(names)}",
            expected="names with commas between them: --class-names cat,dog",
            remedy="correct --class-names, or leave it out",
        )
    if names and count is not None and len(names) != count:
        raise ConfigError(
            f"{request.config_file} and the class names do not fit",
            got=f"{len(names)} names: {listed(names)}",
            expected=f"{count} {'stuff' if _is_semantic(cfg) else 'things'}, as many as the model has",
            remedy="name as many as the model has: --class-names",
        )


def _is_semantic(cfg: CfgNode) -> bool:
    return bool(cfg.MODEL.META_ARCHITECTURE == "SemanticSegmentor")


def check_device(device: str) -> None:
    """Raise ConfigError unless a device has a valid name; the runtime checks whether it exists."""
    if not DEVICE.fullmatch(device):
        raise ConfigError(
            "unknown device",
            got=repr(device),
            expected="cpu, cuda or cuda:<index>",
            remedy=did_you_mean(device, ("cpu", "cuda", "cuda:0")) or "choose one: --device",
        )


def check_device_option(request: Request, options: dict[str, dict[str, Any]]) -> None:
    """Raise ConfigError if a compiled artifact would be for another device than --device."""
    for artifact, given in options.items():
        declared = artifacts()[artifact].maker.declared_options()
        if "device" in given and given["device"] != request.device:
            raise ConfigError(
                "two options name the device",
                got=f"--opt device={given['device']}, --device {request.device}",
                expected="one device, which the artifact is compiled for and checked on",
                remedy="leave out --opt device, and give --device",
            )
        if "device" in declared and request.device not in declared["device"].choices:
            raise ConfigError(
                f"{artifact} is compiled for a kind of device",
                got=f"--device {request.device}",
                expected=f"one of {', '.join(declared['device'].choices)}",
                remedy="leave out the index",
            )


def check_target(name: str, artifact_dir: Path) -> None:
    """Check the target that an artifact is run as; empty: the format's runtime.

    Raises:
        ArtifactError: the folder is not an artifact.
        ConfigError: there is no such target, or it does not run artifacts of this format.
    """
    if name:
        find_target(name)
    check_artifact(artifact_dir)
    if name:
        from detexport.workflows.choose_runtime import asked_target

        asked_target(read_artifact(artifact_dir), name)


def check_opset(target: Target, options: dict[str, dict[str, Any]], cfg: CfgNode) -> None:
    """Check that the exporter can write the ONNX opset version, and that ONNX Runtime can run it.

    Raises:
        ConfigError: it cannot.
    """
    steps = {name: artifacts()[name].maker for name in artifact_chain(target.artifact)}
    for artifact, maker in steps.items():
        declared = maker.declared_options()
        if "opset_version" not in declared:
            continue
        values = {name: option.default for name, option in declared.items()} | options[artifact]
        check_opset_version(
            artifact,
            values["opset_version"],
            values["exporter"],
            rois=pools_regions(cfg),
            runs_onnx=any("onnxruntime" in one.packages for one in (*steps.values(), target.runtime)),
            option="--opt opset_version",
        )


def check_artifact(folder: Path) -> None:
    """Raise ArtifactError unless a folder has a manifest."""
    if os.path.isfile(folder / MANIFEST):
        return
    if os.path.isdir(folder):
        got = f"a folder without {MANIFEST}"
    else:
        got = "a file" if os.path.lexists(folder) else "no such folder"
    raise ArtifactError(
        f"{folder} is not an artifact",
        got=got,
        expected=f"a folder with {MANIFEST}, as `detexport export` and the pipeline write it",
        remedy="correct the path, or export the model",
    )


def check_data(folder: Path) -> None:
    """Raise DataError unless a folder has annotations, as a data set has.

    COCO's own downloads have no folder ``images``, and annotations may name images elsewhere.
    """
    missing = [name for name in ("annotations", "images") if not os.path.isdir(folder / name)]
    if "annotations" in missing:
        raise DataError(
            f"{folder} is not a data set",
            got=f"no folder {' and no folder '.join(missing)}" if os.path.isdir(folder) else "no such folder",
            expected="images/val and annotations/instances_val.json, as COCO has them",
            remedy="correct --data",
        )


def check_writable(path: Path) -> None:
    """Raise OutputError unless a folder can be created at a path, or exists and is writable."""
    try:
        above = next(one for one in (path, *path.absolute().parents) if _is_there(one))
    except OSError as error:
        fault = f"{error.strerror}"
    else:
        if not above.is_dir():
            fault = f"{above} is a file"
        elif not os.access(above, os.W_OK | os.X_OK):
            fault = f"{above} is not writable"
        else:
            return
    raise OutputError(
        f"cannot write {path}",
        got=fault,
        expected="a folder that can be written, or created",
        remedy="write elsewhere, or correct the permissions",
    )


def _is_there(path: Path) -> bool:
    """Return whether a path exists, or is a link; raise OSError for an invalid name."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
