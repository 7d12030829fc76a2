"""Export a target by its name: choose the steps and the runtime, export, check against the model."""

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from detexport.artifact import Artifact
from detexport.contract import Contract
from detexport.data.coco import CocoDataset
from detexport.data.image_samples import BUNDLED_SAMPLE, ImageSamples
from detexport.errors import ConfigError, ExportError, listed
from detexport.execution.sessions import OneSession
from detexport.metrics.evaluate import annotation_kind, with_skip_remedy
from detexport.modeling.class_names import count_classes
from detexport.parity.accuracy import FLOAT32, Accuracy, measure_accuracy
from detexport.parity.settings import default_settings
from detexport.parity.verdict import ParityReport
from detexport.runtime.session import Engine
from detexport.system.progress import Step, silent
from detexport.targets.table import Target, build_steps, find_target
from detexport.workflows.check_artifact import check_artifact
from detexport.workflows.choose_runtime import OnDevice
from detexport.workflows.export import export
from detexport.workflows.loaded_model import LoadedModel
from detexport.workflows.make_reference import measure_eager_accuracy
from detexport.workflows.validation_data import load_dataset, training_images

OnResult = Callable[[ParityReport | Accuracy], None]


def export_target(
    model: LoadedModel,
    target: str,
    output: Path,
    *,
    options: Sequence[str] = (),
    images: Sequence[Path] = (),
    calibration: Sequence[Path] = (),
    class_names: Sequence[str] = (),
    data: Path | None = None,
    device: str = "cpu",
    check: bool = True,
    evaluate: bool = False,
    step: Step = silent,
    on_result: OnResult | None = None,
    on_warning: Callable[[str], None] = lambda _: None,
) -> Artifact:
    """Export a model for a target; the artifact is kept if it passes the check against the model.

    Args:
        model: on the CPU.
        target: name in ``detexport.targets.table.targets``.
        output: folder of the artifact; an existing artifact is replaced.
        options: ``"name=value"`` of the export method and the conversions: see ``parse_options``.
        images: image files; the first is the example input of the export, all are inputs of the check. By
            default a bundled image.
        calibration: calibration images for int8; by default the training images of ``data``, else ``images``.
        class_names: names of the classes, also those of ``data`` to keep; by default all of ``data``, else
            the model's.
        data: data set in the standard layout or in that of COCO's downloads.
        device: the device that the artifact is compiled for and checked on.
        check: whether the artifact is checked against the model. A target of reduced precision is checked by
            its task metric on ``data``.
        evaluate: whether the task metric of a float32 target is measured on ``data``, too.
        step: reports each step: see ``Step``.
        on_result: called with the report of the check, or with the metrics without a check, before an error
            of an artifact that did not pass.
        on_warning: called once if classes have numbers for names, since nobody named them.

    Raises:
        ConfigError: an argument does not fit the model, the target or the data.
        ExportError: the model cannot be exported, or the artifact does not pass the check.
        OutputError: the folder cannot be written.
        RuntimeUnavailableError: the runtime is not on this machine.
    """
    wanted = find_target(target)
    steps = _for_device(build_steps(wanted.artifact, list(options)), device)
    images = images or [BUNDLED_SAMPLE]
    dataset = _dataset(model, data, class_names, evaluated=evaluate or (check and bool(wanted.precision)))
    if class_names or dataset is not None:
        model = _with_names(model, class_names, dataset)
    named = class_names or (dataset is not None and "things" in count_classes(model.net))
    if model.numbered and not named:
        on_warning(_unnamed(model))
    if not evaluate and not wanted.precision:
        dataset = None  # only its class names are used
    engine = OnDevice(wanted.runtime.build(), device)
    report = on_result or _ignore
    assess: Callable[[Path], None] | None = None
    if check:
        assess = _checked(model, target, wanted, engine, images, dataset, report)
    elif evaluate:
        assess = _evaluated(model, wanted, engine, dataset, report)
    return export(
        model,
        steps,
        next(iter(_samples(images, model.contract))),
        output,
        calibration=_samples(
            calibration or (training_images(data) if data else ()) or images, model.contract
        ),
        check=assess,
        step=step,
    )


def _for_device(steps: dict[str, Any], device: str) -> dict[str, Any]:
    """Return the steps, those that compile with the device as their option."""
    return {
        name: replace(maker, device=device) if "device" in [one.name for one in fields(maker)] else maker
        for name, maker in steps.items()
    }


def _dataset(
    model: LoadedModel, data: Path | None, class_names: Sequence[str], *, evaluated: bool
) -> CocoDataset | None:
    if data is None:
        return None
    names = tuple(class_names) if "things" in count_classes(model.net) else ()
    with with_skip_remedy("export without --run-eval, and a target of reduced precision with --no-check"):
        return load_dataset(data, names, annotation_kind(model.contract), evaluated=evaluated)


def _with_names(model: LoadedModel, class_names: Sequence[str], dataset: CocoDataset | None) -> LoadedModel:
    if not class_names and dataset is not None and "things" in count_classes(model.net):
        class_names = dataset.class_names
    return model.with_class_names(class_names) if class_names else model


def _unnamed(model: LoadedModel) -> str:
    """Return the warning that classes have numbers for names, with the remedy."""
    kind, count = next(iter(model.numbered.items()))
    numbers = "0" if count == 1 else f"0 to {count - 1}"
    return (
        f"{model.name} has no names for its {count} {kind}, so results call them {numbers}; "
        "give their names by --class-names NAME,NAME,... (in Python: class_names=[...])"
    )


def _samples(files: Sequence[Path], contract: Contract) -> ImageSamples:
    return ImageSamples(files, contract.channel_order, contract.resize)


def _checked(
    model: LoadedModel,
    name: str,
    target: Target,
    engine: Engine,
    images: Sequence[Path],
    dataset: CocoDataset | None,
    report: OnResult,
) -> Callable[[Path], None]:
    """Return a function that raises ExportError unless an artifact passes the check against the model."""

    def check(artifact_dir: Path) -> None:
        result = check_artifact(
            artifact_dir,
            engine,
            model,
            images,
            artifact_dir.with_name(".reference"),
            job=name,
            precision=target.precision or FLOAT32,
            dataset=dataset,
        )
        report(result)
        if not result.passed:
            raise ExportError(
                f"the artifact of {name} differs from the model",
                got=listed(result.reasons),
                expected="the model's detections, within the tolerance",
                remedy="give images of the model's domain by --sample, for int8 by --calibration (in Python: "
                "sample=..., calibration=...), choose another target, or keep the artifact unchecked by "
                "--no-check (check=False)",
            )

    return check


def _evaluated(
    model: LoadedModel, target: Target, engine: Engine, dataset: CocoDataset | None, report: OnResult
) -> Callable[[Path], None]:
    """Return a function that evaluates the task metric of the model and of an artifact."""
    if dataset is None:
        raise ConfigError(
            "there is no data to evaluate on",
            got="no --data",
            expected="a folder with images/val and annotations/instances_val.json",
            remedy="give --data DIR (in Python: data=...)",
        )
    precision, settings = target.precision or FLOAT32, default_settings()

    def evaluate(artifact_dir: Path) -> None:
        report(
            measure_accuracy(
                OneSession(engine.open(artifact_dir)),
                measure_eager_accuracy(model, dataset),
                dataset,
                precision=precision,
                budget=settings.budgets[precision],
                least=settings.min_accuracy,
            )
        )

    return evaluate


def _ignore(_: ParityReport | Accuracy) -> None: ...
