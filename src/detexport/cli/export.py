"""``detexport export``: a model -> an artifact that is proved, or nothing."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detexport import model_zoo
from detexport.artifact import Artifact, read_artifact
from detexport.checkpoint import fetch, load_weights, match_weights, read_state_dict, write_state_dict
from detexport.checkpoint.load import describe_parameters
from detexport.cli.checks import Request as Request
from detexport.cli.checks import check_export, check_weights, configuration, judged_by_ap
from detexport.cli.evaluation import evaluate_both, judge_eager, load_dataset, say_quality
from detexport.cli.images import find_images, list_images
from detexport.cli.progress import say, step
from detexport.cli.verdict import say_errors
from detexport.config.cfg import CfgNode
from detexport.contract import Contract
from detexport.data import MetadataCatalog
from detexport.data.coco import CocoDataset
from detexport.data.coco import find_images as image_folder
from detexport.data.samples import ImageSamples
from detexport.errors import ConfigError, ExportError, listed
from detexport.export import Provenance
from detexport.metrics.evaluate import annotation_kind, or_without
from detexport.modeling import build_model
from detexport.modeling.class_names import count_classes, named_contract
from detexport.parity.accuracy import FLOAT32
from detexport.runtime import Engine, Session
from detexport.system.atomic import atomic_dir
from detexport.system.digests import sha256_file
from detexport.system.files import is_url, writing
from detexport.system.redaction import public_uri
from detexport.targets.table import ARTIFACTS, Target, build_makers, find_target
from detexport.workflows.check_artifact import check_artifact
from detexport.workflows.engines import OnDevice

BUNDLED_SAMPLE = Path(__file__).parents[1] / "data" / "sample.png"
STEPS = ".steps"


@dataclass(frozen=True)
class Model:
    """A loaded model and where it comes from."""

    cfg: CfgNode
    net: Any
    contract: Contract
    provenance: Provenance
    dataset: CocoDataset | None


def export(request: Request) -> None:
    """Check the request, export, prove, and only then put the artifact into the output folder.

    Raises:
        DetexportError: see ``check_export`` and ``make``.
    """
    make(check_export(request))


def make(request: Request) -> None:
    """Export what was asked for by a request that was checked.

    Raises:
        ConfigError: the request does not fit the model.
        CheckpointError: the weights are not the model's.
        ExportError: the model cannot be exported, or the artifact does not compute what the model computes.
    """
    target = find_target(request.target)
    makers = _for_device(build_makers(target.artifact, list(request.options)), request.device)
    files = find_images(request.samples) if request.samples else [BUNDLED_SAMPLE]
    calibration = find_images(request.calibration)
    with writing(request.output), atomic_dir(request.output) as folder:
        steps = folder / STEPS
        steps.mkdir()
        with step("build the model and load its weights"):
            model = load_model(request, steps, judged=request.run_eval or judged_by_ap(request, target))
        images = _samples(files, model.contract)
        calibration = calibration or _training_images(request.data) or files
        made = _make(makers, model, next(iter(images)), _samples(calibration, model.contract), steps)
        engine = OnDevice(target.runtime.build(), request.device)
        if request.proof:
            _check(request, target, model, engine, made, files, steps / "reference")
        elif request.run_eval:
            _evaluate(model, target, engine.open(made))
        artifact = _promote(made, folder)
    size = sum((request.output / name).stat().st_size for name in artifact.files)
    say(f"{request.output}: {artifact.format.value}, {size / 1e6:.1f} MB, sha256 {artifact.sha256}")
    if not request.proof:
        say("not proved, as asked for by --no-proof")


def _for_device(makers: dict[str, Any], device: str) -> dict[str, Any]:
    """What is compiled is compiled for the device; all else does not know one."""
    return {
        name: replace(maker, device=device) if "device" in [one.name for one in fields(maker)] else maker
        for name, maker in makers.items()
    }


def load_model(request: Request, folder: Path, *, judged: bool = False) -> Model:
    """The model in evaluation mode on the CPU, its digests those that the pipeline gives it.

    Args:
        request: names configuration, weights and data.
        folder: for the files whose digests these are.
        judged: whether the model is judged by the annotations of the data, which are read with keypoints then
            if it gives any.
    """
    cfg = configuration(request)
    weights = request.weights or cfg.MODEL.WEIGHTS
    check_weights(weights)
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    torch.manual_seed(0)
    net = build_model(cfg).eval()
    state_dict = read_state_dict(fetch(weights) if is_url(weights) else Path(weights))
    option = "--allow-new"
    fitting, report = match_weights(
        state_dict, **describe_parameters(net), new_parameters=request.allow_new, option=option
    )
    source = public_uri(weights) if is_url(weights) else weights  # an address may be signed by its query
    report.raise_if_incomplete(source, option=option)
    if told := report.describe():
        say(f"{source}: {told}")
    fitting |= {name: net.state_dict()[name] for name in report.new_keys}
    load_weights(net, fitting, source)
    dataset = _dataset(request, net, judged=judged)
    write_state_dict(fitting, folder / "model.safetensors")
    (folder / "config.yaml").write_text(cfg.dump(), encoding="utf-8")
    return Model(
        cfg,
        net,
        _named(net, cfg, request, dataset),
        Provenance(
            weights_sha256=sha256_file(folder / "model.safetensors"),
            config_sha256=sha256_file(folder / "config.yaml"),
        ),
        dataset,
    )


def _dataset(request: Request, net: Any, *, judged: bool) -> CocoDataset | None:
    if request.data is None:
        return None
    names = request.class_names if "things" in count_classes(net) else ()
    with or_without("export without --run-eval, and a target of reduced precision with --no-proof"):
        return load_dataset(request.data, names, annotation_kind(net.contract(())), judged=judged)


def _named(net: Any, cfg: CfgNode, request: Request, dataset: CocoDataset | None) -> Contract:
    """The model's contract with the names that are given, the data's, those of its data set, or numbers."""
    counts = count_classes(net)
    names: dict[str, Sequence[str]] = {
        kind: [str(index) for index in range(count)] for kind, count in counts.items() if kind != "keypoints"
    }
    known = _names_of_dataset(cfg)
    # A model of other classes whose configuration still names the data set that it began with has no names.
    names |= {kind: known[kind] for kind in names if len(known.get(kind, ())) == counts[kind]}
    if dataset is not None and "things" in counts:
        names["things"] = dataset.class_names
    if request.class_names:
        names[next(iter(counts), "things")] = request.class_names
    remedy = "name as many as the model has: --class-names"
    sigmas = tuple(cfg.TEST.KEYPOINT_OKS_SIGMAS)
    return named_contract(net, names, keypoint_sigmas=sigmas, what=request.config_file, remedy=remedy)


def _names_of_dataset(cfg: CfgNode) -> dict[str, Sequence[str]]:
    """Names by kind that are known of the data set which the model is tested on."""
    if not cfg.DATASETS.TEST:
        return {}
    metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
    registered = {"things": metadata.get("thing_classes"), "stuff": metadata.get("stuff_classes")}
    zoo = model_zoo.get_class_names(cfg.DATASETS.TEST[0])
    return {**zoo, **{kind: names for kind, names in registered.items() if names}}


def _samples(files: Sequence[Path], contract: Contract) -> ImageSamples:
    return ImageSamples(files, contract.channel_order, contract.resize)


def _training_images(data: Path | None) -> list[Path]:
    """The images of the training split, if there is one."""
    return list_images(image_folder(data, "train")) if data else []


def _make(
    makers: dict[str, Any], model: Model, sample: np.ndarray, calibration: ImageSamples, folder: Path
) -> Path:
    """Make one artifact after another; the folder of the last."""
    for number, (name, maker) in enumerate(makers.items(), start=1):
        with step(f"{name} ({number} of {len(makers)})"):
            made = folder / name
            if source := ARTIFACTS[name].source:
                maker.convert(folder / source, calibration, made)
            else:
                maker.export(model.net, sample, made, contract=model.contract, provenance=model.provenance)
    return made


def _check(
    request: Request,
    target: Target,
    model: Model,
    engine: Engine,
    made: Path,
    files: Sequence[Path],
    reference: Path,
) -> None:
    """Validate the artifact on the samples, and print how far it is from the model.

    Raises:
        ExportError: it does not pass.
    """
    dataset = model.dataset if target.precision or request.run_eval else None
    report = check_artifact(
        made,
        engine,
        model.net,
        model.contract,
        files,
        reference,
        job=request.target,
        precision=target.precision or FLOAT32,
        quality=judge_eager(model.net, dataset, model.contract.oks_sigmas) if dataset else None,
        dataset=dataset,
    )
    if report.quality is not None:
        say_quality(report.quality)
    say_errors(report)
    if not report.passed:
        raise ExportError(
            f"{request.target} does not compute what the model computes",
            got=listed(report.reasons),
            expected="what the model finds, within the limits",
            remedy="give images of the model's kind by --sample (for int8 by --calibration), choose another "
            "target, or keep the artifact unproved by --no-proof",
        )


def _evaluate(model: Model, target: Target, session: Session) -> None:
    if model.dataset is None:
        raise ConfigError("there is no data to judge on", remedy="give --data DIR")
    say_quality(evaluate_both(model.net, session, model.dataset, precision=target.precision))


def _promote(made: Path, folder: Path) -> Artifact:
    """Leave in ``folder`` the finished artifact and nothing of the way to it."""
    for path in made.iterdir():
        path.replace(folder / path.name)
    shutil.rmtree(folder / STEPS)
    return read_artifact(folder)
