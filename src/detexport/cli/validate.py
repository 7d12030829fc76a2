"""``detexport validate``: does an artifact compute what its model, or another artifact, computes?"""

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from detexport.artifact import read_artifact
from detexport.cli.engines import engine_of
from detexport.cli.evaluation import judge_eager, load_dataset
from detexport.cli.export import OnDevice, Request, load_model
from detexport.cli.progress import say, step
from detexport.data.coco import CocoDataset, records_of
from detexport.engine.evaluation import spread
from detexport.errors import ArtifactError, ConfigError
from detexport.files import write_json, writing
from detexport.metrics.judge import Judge
from detexport.metrics.tallies import pack_tallies
from detexport.parity.certificate import certify
from detexport.parity.compare import Tolerance
from detexport.parity.eager import versions
from detexport.parity.floor import Floor, read_floor
from detexport.parity.inputs import Plan, inputs
from detexport.parity.outputs import Outputs
from detexport.parity.pristine import eager_samples
from detexport.parity.progress import Progress
from detexport.parity.quality import BUDGETS, FLOAT32, LEAST_QUALITY, findings, measure_quality
from detexport.parity.reference import (
    EagerQuality,
    contract_sha256,
    read_reference,
    write_reference,
)
from detexport.parity.report import ParityReport
from detexport.parity.validate import validate_artifact
from detexport.parity.variants import measure_floor
from detexport.postprocess import postprocess
from detexport.runtime import BatchSession, Session
from detexport.targets import find_target

REPORT, CERTIFICATE, DRAWN = "parity.json", "certificate.json", "drawn.npz"
FLOOR_IMAGES = 12
MOST_FLIPS = 10


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


@dataclass(frozen=True)
class Expected:
    """What an artifact is held against: the outputs of a model or of another artifact, and its noise."""

    reference: Path
    floor: Floor | None
    name: str


def run(question: Question) -> ParityReport:
    """Validate an artifact, and say what was found.

    Raises:
        ArtifactError: a folder is not an artifact, its files were changed, or the two are of other models.
        ConfigError: there is nothing to hold the artifact against.
        RuntimeUnavailableError: a runtime is not on this machine.
    """
    artifact = read_artifact(question.artifact_dir)
    target = question.target and find_target(question.target)
    precision = (target.precision if target else "") or FLOAT32
    with tempfile.TemporaryDirectory() as temporary:
        expected = _expected(question, Path(temporary) / "reference")
        reference = read_reference(expected.reference)
        measure = None
        if question.data is not None and reference.quality is not None:
            measure = partial(
                measure_quality,
                eager=reference.quality,
                dataset=load_dataset(question.data, (), artifact.contract),
                precision=precision,
                budget=BUDGETS[precision],
                least=LEAST_QUALITY,
            )
        report = validate_artifact(
            OnDevice(engine_of(question.artifact_dir, question.target), question.device),
            question.artifact_dir,
            reference,
            Tolerance(),
            job=f"{question.artifact_dir} against {expected.name}",
            floor=expected.floor,
            measure=measure,
            reduced=precision != FLOAT32,
        )
        if question.as_json:
            json.dump(report.to_json(), sys.stdout, indent=1, ensure_ascii=False)
            print()
        else:
            print("\n".join(tell_report(report)))
        if question.save_dir is not None:
            _save(report, question, expected.reference)
    return report


def tell_report(report: ParityReport) -> list[str]:
    """A report in lines: each verdict, what it rests on, why it failed."""
    lines = [f"{report.job}: {'passed' if report.passed else 'did not pass'}"]
    for name, verdict in report.verdicts.items():
        answer = "not judged" if not verdict.judged else "passed" if verdict.passed else "FAILED"
        lines.append(f"  {name:9} {answer:11} {verdict.question} {verdict.note}".rstrip())
        lines += [f"    {reason}" for reason in verdict.reasons]
    flips = report.to_json()["flips"]
    for flip in flips[:MOST_FLIPS]:
        side = "only the other side" if flip["side"] == "missing" else "only this artifact"
        what = f"class {flip['pred_class']}, score {flip['score']:.4f}"
        edge = "at the edge: " if flip["excused"] else ""
        where = f"{edge}{flip['distance']:.2g} from {flip['decider']}"
        lines.append(f"  flip in {flip['sample']}, {side}: {what}, {where}")
    if len(flips) > MOST_FLIPS:
        lines.append(f"  and {len(flips) - MOST_FLIPS} more flips")
    return lines


def _expected(question: Question, folder: Path) -> Expected:
    """Run what the artifact is held against, or take what the pipeline has left of it."""
    beside = question.artifact_dir.resolve().parents[1]
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
        return _artifact(question, question.against, folder)
    return _model(question, folder)


def _model(question: Question, folder: Path) -> Expected:
    """The eager model on the inputs that hurt, and its noise."""
    request = Request(
        question.config_file,
        question.weights,
        target="",
        output=Path(),
        data=question.data,
        overrides=question.overrides,
    )
    with step("build the model and load its weights"), tempfile.TemporaryDirectory() as temporary:
        model = load_model(request, Path(temporary))
    dataset = _dataset(model.dataset, question)
    sigmas = tuple(model.cfg.TEST.KEYPOINT_OKS_SIGMAS)
    judged = spread(dataset, question.quality_images)
    write_reference(
        folder,
        eager_samples(model.net, model.contract, spread(dataset, question.images).images, Plan()),
        contract=model.contract,
        environment={"dtype": "float32", "versions": versions()},
        quality=judge_eager(model.net, judged, sigmas) if question.quality_images else None,
    )
    floor = measure_floor(model.net, model.contract, read_reference(folder), Tolerance(), FLOOR_IMAGES)
    return Expected(folder, floor, question.config_file)


def _artifact(question: Question, other: Path, folder: Path) -> Expected:
    """Another artifact on the inputs that hurt."""
    mine, contract = read_artifact(question.artifact_dir).contract, read_artifact(other).contract
    if contract_sha256(mine) != contract_sha256(contract):
        raise ArtifactError(
            f"{other} is not an artifact of the same model",
            got="other outputs, classes or thresholds",
            expected=f"the contract of {question.artifact_dir}; `detexport inspect` tells both",
        )
    assert question.data is not None
    session = OnDevice(engine_of(other, question.against_target), question.device).open(other)
    dataset = _dataset(load_dataset(question.data, (), contract), question)
    judged = spread(dataset, question.quality_images)
    write_reference(
        folder,
        inputs(spread(dataset, question.images).images, contract, Plan(), partial(_run, session), None),
        contract=contract,
        environment={"artifact": session.artifact.sha256},
        quality=_quality(session, judged) if question.quality_images else None,
    )
    return Expected(folder, None, str(other))


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


def _quality(session: Session, dataset: CocoDataset) -> EagerQuality:
    judge = Judge(dataset, ())
    ids = tuple(image.image_id for image in dataset.images)
    judged = judge.conclude(findings(session, records_of(dataset, ids), judge, Progress()))
    return EagerQuality(judged.metrics, judged.image_ids, (), pack_tallies(judged.tallies))


def _dataset(dataset: CocoDataset | None, question: Question) -> CocoDataset:
    if dataset is None or not dataset.images:
        raise ConfigError(
            f"{question.data} has no validation image", remedy="give --data a folder with images/val"
        )
    return dataset


def _save(report: ParityReport, question: Question, reference: Path) -> None:
    assert question.save_dir is not None
    folder, artifact = question.save_dir, read_artifact(question.artifact_dir)
    runtime: dict[str, Any] = {"target": question.target or "the format's own", "device": question.device}
    with writing(folder):
        report.save(folder / REPORT, folder / DRAWN)
        write_json(
            folder / CERTIFICATE,
            certify(report.to_json(), artifact, reference=reference, runtime=runtime),
        )
    say(f"{folder}: {REPORT}, {CERTIFICATE}")
