"""``detexport validate``: does an artifact compute what its model, or another artifact, computes?"""

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from detexport.artifact import Artifact, read_artifact, read_verified
from detexport.cli.evaluation import judge_eager, load_dataset
from detexport.cli.output import print_json
from detexport.cli.progress import say, step
from detexport.cli.verdict import report_lines
from detexport.contract import Contract
from detexport.data.coco import CocoDataset, CocoRecord, records_of
from detexport.engine.evaluation import spread
from detexport.errors import ArtifactError, ConfigError, DataError, MissingAnnotationsError, listed
from detexport.metrics.evaluate import Judge, annotation_kind, or_without
from detexport.metrics.tallies import pack_tallies
from detexport.outputs import Outputs
from detexport.parity.accuracy import FLOAT32, findings
from detexport.parity.certificate import certify
from detexport.parity.noise_floor import Floor, read_floor
from detexport.parity.settings import Rules, read_rules
from detexport.parity.verdict import ParityReport
from detexport.processing.postprocess import postprocess
from detexport.reference.inputs import resumed_inputs
from detexport.reference.progress import Progress, progress_folder, validation_key
from detexport.reference.store import EagerQuality, of_model, read_reference, write_reference
from detexport.runtime import BatchSession, Session
from detexport.system.digests import sha256_json
from detexport.system.files import write_json, writing
from detexport.workflows.engines import OnDevice, asked_target, engine_of
from detexport.workflows.validate import validate_apart

REPORT, CERTIFICATE, DRAWN = "parity.json", "certificate.json", "drawn.npz"
REFERENCE = "reference"
SWITCH = "--quality-images 0"


@dataclass(frozen=True)
class Question:
    """What the user asked: see ``detexport validate --help``."""

    artifact_dir: Path
    data: Path | None
    against: Path | None
    config_file: str
    weights: str
    target: str
    against_target: str
    images: int
    quality_images: int
    device: str
    save_dir: Path | None
    as_json: bool
    overrides: tuple[str, ...]
    allow_new: tuple[str, ...] = ()
    params: Path | None = None


@dataclass(frozen=True)
class Expected:
    """What an artifact is held against: the outputs of a model or of another artifact, and its noise."""

    reference: Path
    floor: Floor | None
    name: str


def run(question: Question) -> ParityReport:
    """Validate an artifact, and say what was found.

    With a folder for the results, an interrupted run leaves what it has computed there, and the next goes on.

    Raises:
        ArtifactError: a folder is not an artifact, its files were changed, or the two are of other models.
        ConfigError: there is nothing to hold the artifact against, or to judge reduced precision by.
        DataError: the data set has no image, or lacks what the task metric is measured by.
        OutputError: the folder for the results cannot be written.
        RuntimeUnavailableError: a runtime is not on this machine.
    """
    rules = read_rules(question.params) if question.params else Rules()
    artifact = read_verified(question.artifact_dir)
    target = asked_target(artifact, question.target)
    precision = (target.precision if target else "") or FLOAT32
    if precision != FLOAT32 and not _judged(question):
        raise _unjudged(precision, SWITCH if question.data else "no --data")
    with ExitStack() as at_work:
        work = question.save_dir or Path(at_work.enter_context(tempfile.TemporaryDirectory()))
        at_work.enter_context(writing(work))
        expected = _expected(question, rules, artifact, work, at_work)
        quality = read_reference(expected.reference).quality
        if precision != FLOAT32 and quality is None:
            raise _unjudged(precision, f"no metric in {expected.reference}")
        is_judged = _judged(question) and quality is not None
        report = validate_apart(
            question.artifact_dir,
            OnDevice(engine_of(question.artifact_dir, question.target), question.device),
            expected.reference,
            replace(rules, draw=0),
            job=f"{question.artifact_dir} against {expected.name}",
            precision=precision,
            floor=expected.floor,
            dataset=_annotated(question, artifact.contract) if is_judged else None,
            data=question.data,
            save_to=work / REPORT if question.save_dir else None,
            settings={"target": question.target, "device": question.device},
        )
        if question.save_dir is not None:
            _save(report, question, expected.reference)
    if question.as_json:
        print_json(report.to_json())
    else:
        print("\n".join(report_lines(report)))
    return report


def _judged(question: Question) -> bool:
    """Whether the task metric is asked for."""
    return question.data is not None and question.quality_images > 0


def _unjudged(precision: str, got: str) -> ConfigError:
    return ConfigError(
        f"{precision} is judged by the task metric alone, and there is none",
        got=got,
        expected="annotated images, on which what it is held against was judged, too",
        remedy="give --data, and --quality-images greater than 0",
    )


def _expected(
    question: Question, rules: Rules, artifact: Artifact, work: Path, at_work: ExitStack
) -> Expected:
    """Run what the artifact is held against, or take what the pipeline has left of it."""
    beside = question.artifact_dir.resolve().parent.parent
    asked = {"--against": question.against is not None, "--config-file": bool(question.config_file)}
    if sum(asked.values()) > 1:
        raise ConfigError("an artifact is held against one thing", got=" and ".join(asked), expected="one")
    if not any(asked.values()) and (beside / "reference").is_dir():
        floor = beside / "floor.json"
        return Expected(
            beside / "reference", read_floor(floor) if floor.is_file() else None, str(beside / "reference")
        )
    if question.data is None or not any(asked.values()):
        raise ConfigError(
            "there is nothing to hold the artifact against",
            got="no --data" if any(asked.values()) else "neither a model nor another artifact",
            expected="a model (--config-file, --weights) or an artifact (--against), and images (--data)",
            remedy="give them; an artifact that lies where the pipeline leaves it needs nothing",
        )
    if question.against is not None:
        return _artifact(question, rules, artifact, question.against, work, at_work)
    return _model(question, rules, artifact, work, at_work)


def _model(question: Question, rules: Rules, artifact: Artifact, work: Path, at_work: ExitStack) -> Expected:
    """Run the eager model on the edge-case inputs and measure its noise floor."""
    # They import torch, which comparing two artifacts does without.
    from detexport.cli.export import Request, load_model
    from detexport.parity.noise_variants import measure_floor
    from detexport.reference.eager import versions
    from detexport.reference.run import eager_samples

    request = Request(
        question.config_file,
        question.weights,
        target="",
        output=Path(),
        overrides=question.overrides,
        allow_new=question.allow_new,
    )
    images = _images(question, artifact.contract)
    with step("build the model and load its weights"), tempfile.TemporaryDirectory() as temporary:
        model = load_model(request, Path(temporary))
    contract = _named_alike(model.contract, artifact.contract)
    digest = sha256_json(asdict(model.provenance))
    progress, reference = _kept(question, rules, work, digest, contract, at_work)
    quality = None
    if question.quality_images:
        judged = spread(_annotated(question, contract), question.quality_images)
        with or_without(SWITCH):
            quality = judge_eager(model.net, judged, contract.oks_sigmas, progress)
    write_reference(
        reference,
        eager_samples(model.net, contract, images, rules.plan, progress),
        contract=contract,
        environment={"dtype": "float32", "versions": versions()},
        quality=quality,
    )
    floor = measure_floor(
        model.net, contract, read_reference(reference), rules.tolerance, rules.floor_images, progress=progress
    )
    return Expected(reference, floor, question.config_file)


def _artifact(
    question: Question, rules: Rules, mine: Artifact, other: Path, work: Path, at_work: ExitStack
) -> Expected:
    """Another artifact on the inputs that hurt."""
    contract = read_verified(other).contract
    differences = of_model(contract).differences(of_model(mine.contract))
    if differences:
        raise ArtifactError(
            f"{other} is not an artifact of the same model",
            got=listed(differences),
            expected=f"the contract of {question.artifact_dir}",
            remedy="compare artifacts of one model",
        )
    images = _images(question, contract)
    session = OnDevice(engine_of(other, question.against_target), question.device).open(other)
    progress, reference = _kept(question, rules, work, session.artifact.sha256, contract, at_work)
    quality = None
    if question.quality_images:
        judged = spread(_annotated(question, contract), question.quality_images)
        with or_without(SWITCH):
            quality = _quality(session, judged, progress)
    samples = resumed_inputs(images, contract, rules.plan, partial(_run, session), None, progress)
    write_reference(
        reference,
        # In a batch outputs depend on the other images: what takes one at a time says nothing of it.
        (sample for sample in samples if not sample[0].batch or session.artifact.batch == "any"),
        contract=contract,
        environment={"artifact": session.artifact.sha256},
        quality=quality,
    )
    return Expected(reference, None, str(other))


def _kept(
    question: Question, rules: Rules, work: Path, sha256: str, contract: Contract, at_work: ExitStack
) -> tuple[Progress, Path]:
    """What was computed already of the model, or the other artifact, of this digest; the reference's folder.

    Both go when the work is done.
    """
    settings = {
        "contract": contract.to_json(),
        "target": question.against_target,
        "device": question.device,
        # The noise of an input depends on the limits, and what an input is on the images.
        "rules": repr(rules),
        "images": question.images,
    }
    folder = progress_folder(work / REFERENCE)
    progress = Progress(folder, validation_key(sha256, None, question.data, settings))
    return at_work.enter_context(progress), folder / REFERENCE


def _named_alike(contract: Contract, other: Contract) -> Contract:
    """With the other's names where there are as many: they say nothing of what is computed."""
    names = {
        name: getattr(other, name)
        for name in ("class_names", "stuff_class_names", "keypoint_names")
        if len(getattr(other, name)) == len(getattr(contract, name))
    }
    return replace(contract, **names)


def _run(session: Session, images: Sequence[np.ndarray], sizes: Sequence[tuple[int, int]]) -> list[Outputs]:
    """An artifact on images in one call, or one after another where it takes no more."""
    contract = session.artifact.contract
    if len(images) > 1 and session.artifact.batch == "any":
        found = cast(BatchSession, session).run_batch(images, sizes)
    else:
        found = [session(image, size) for image, size in zip(images, sizes, strict=True)]
    return [
        postprocess(outputs, image.shape[1:], size, contract)
        for outputs, image, size in zip(found, images, sizes, strict=True)
    ]


def _quality(session: Session, dataset: CocoDataset, progress: Progress) -> EagerQuality:
    judge = Judge(dataset, session.artifact.contract.oks_sigmas)
    ids = tuple(image.image_id for image in dataset.images)
    judged = judge.conclude(findings(session, records_of(dataset, ids), judge, progress))
    return EagerQuality(judged.metrics, judged.image_ids, pack_tallies(judged.tallies))


def _images(question: Question, contract: Contract) -> tuple[CocoRecord, ...]:
    """The images that inputs are made of; nobody looks at their annotations."""
    assert question.data is not None
    dataset = load_dataset(question.data, kind=annotation_kind(contract), judged=False)
    if not dataset.images:
        raise DataError(
            f"{dataset.annotation_file} lists no image",
            expected="at least one validation image",
            remedy="give --data a folder with images/val and their annotations",
        )
    return spread(dataset, question.images).images


def _annotated(question: Question, contract: Contract) -> CocoDataset:
    """The validation split with what a contract's outputs are judged by.

    Its classes are the contract's, by their names, or in their order where those are numbers.
    """
    assert question.data is not None
    names = contract.class_names
    numbered = names == tuple(map(str, range(len(names))))
    with or_without(SWITCH):
        dataset = load_dataset(question.data, kind=annotation_kind(contract))
        there = dataset.class_names
        if names == there or not names or (numbered and len(names) == len(there)):
            return dataset
        if numbered or not set(names) <= set(there):
            raise MissingAnnotationsError(
                f"{question.data} has not the classes of the artifact",
                got=f"{len(there)} categories: {listed(there)}",
                expected=f"{len(names)}: {listed(names)}",
                remedy="choose other data",
            )
        return load_dataset(question.data, names, annotation_kind(contract))


def _save(report: ParityReport, question: Question, reference: Path) -> None:
    assert question.save_dir is not None
    folder, artifact = question.save_dir, read_artifact(question.artifact_dir)
    runtime: dict[str, Any] = {"target": question.target or "the format's own", "device": question.device}
    report.save(folder / REPORT, folder / DRAWN)
    write_json(
        folder / CERTIFICATE, certify(report.to_json(), artifact, reference=reference, runtime=runtime)
    )
    say(f"{folder}: {REPORT}, {CERTIFICATE}")
