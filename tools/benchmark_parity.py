"""Benchmark the validation: harmful faults it catches, harmless changes it flags, false alarms on the model.

    make parity-benchmark

Every change of ``tools/planted_faults.py`` is planted in every artifact that it applies to, and the artifact
is validated as in the pipeline. A harmful change is caught if one of its expected verdicts fails; a harmless
one is flagged if any verdict fails. A false alarm is an image on which another run of the eager model (on all
cores, in another memory format, a repetition) exceeds the limits against its own reference.

Reads the reference, the noise floor and the artifacts of each model that ``tools/measure_coverage.py`` wrote.
Exit code 1 if a fault was missed, a harmless change flagged, or there was a false alarm.
"""

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from tqdm import tqdm
from typer import Exit, Option, echo, run

from detexport.artifact import read_artifact
from detexport.benchmark.machine import describe_machine
from detexport.checkpoint import load_weights, read_state_dict
from detexport.config.cfg import load_cfg
from detexport.contract import Contract
from detexport.data.coco import CocoDataset, load_coco
from detexport.metrics.evaluate import annotation_kind
from detexport.modeling import build_model
from detexport.parity.accuracy import measure_accuracy
from detexport.parity.compare import compare
from detexport.parity.eager_variants import NO_NOISE, variants
from detexport.parity.noise_floor import choose_samples, read_noise_floor
from detexport.parity.settings import default_settings
from detexport.parity.validate import validate
from detexport.parity.verdict import ParityReport
from detexport.processing.postprocess import postprocess
from detexport.reference.eager_outputs import run_eager
from detexport.reference.store import Reference, Sample, read_reference, write_reference
from detexport.system.digests import sha256_file
from detexport.system.files import read_json, write_json
from detexport.targets.table import targets
from planted_faults import FAULTS, HARMLESS, TIES, Arrays, Fault, Size, WrappedSession, with_ties

PERTURBED = {
    1e-2: ("numerics", "matching"),
    1e-3: ("numerics", "matching"),
    3e-4: ("numerics", "matching"),
    1e-7: (),
}
"""Relative noise on the weights of an ONNX file, and the verdicts of which one must fail."""

COLLAPSED_BITS = 2
"""Bits of the weights in a failed int8 quantization."""


@dataclass(frozen=True)
class Result:
    """The result of validating a change.

    Args:
        job: model and target.
        fault: name of the change.
        harmful: whether it must be caught.
        right: for a harmful change, whether an expected verdict failed; for a harmless one, whether all
            passed.
        failed: the verdicts that failed.
        reason: the first reason.
    """

    job: str
    fault: str
    harmful: bool
    right: bool
    failed: tuple[str, ...]
    reason: str


@dataclass
class CachedSession(WrappedSession):
    """A session with a cache of its outputs: most faults change only outputs, not inputs."""

    known: dict[bytes, Any] = field(default_factory=dict)

    def __call__(self, image: np.ndarray, output_size: Size | None = None) -> Arrays:
        """Run the graph on one image."""
        key = _key([image], [output_size])
        if key not in self.known:
            self.known[key] = self.inner(image, output_size)
        return dict(self.known[key])

    def run_batch(self, images: Sequence[np.ndarray], sizes: Sequence[Size | None]) -> list[Arrays]:
        """Run the graph on several images in one call."""
        key = _key(images, sizes)
        if key not in self.known:
            self.known[key] = self.inner.run_batch(images, sizes)
        return [dict(arrays) for arrays in self.known[key]]


def main(
    models_dir: Annotated[Path, Option(help="folder with one folder per model, as the pipeline writes it")],
    data: Annotated[Path, Option(help="data set of the references")],
    save_to: Annotated[Path, Option(help="JSON file for the counts")] = Path(
        "reports/benchmarks/parity.json"
    ),
    images: Annotated[int, Option(help="images per model and variant in the search for false alarms")] = 12,
    plant_in: Annotated[list[str] | None, Option(help="models to plant faults in; by default all")] = None,
) -> None:
    """Plant every fault in every artifact, compare the model with itself, print and write the counts."""
    torch.set_num_threads(1)
    known = models(models_dir)
    chosen = [folder for folder in known if not plant_in or folder.name in plant_in]
    results = [result for folder in chosen for result in of_model(folder, data)]
    alarms = [alarm for folder in known for alarm in against_itself(folder, images)]
    harmful = [one for one in results if one.harmful]
    harmless = [one for one in results if not one.harmful]
    missed = [one for one in harmful if not one.right]
    flagged = [one for one in harmless if not one.right]
    by_verdict = Counter(name for one in harmful for name in one.failed)
    write_json(
        save_to,
        {
            "machine": describe_machine(),
            "harmful": len(harmful),
            "caught": len(harmful) - len(missed),
            "harmless": len(harmless),
            "flagged": len(flagged),
            "comparisons": len(alarms),
            "false_alarms": sum(bool(alarm["reasons"]) for alarm in alarms),
            "faults": sorted({one.fault for one in harmful}),
            "jobs": sorted({one.job for one in results}),
            "models": [folder.name for folder in known],
            "by_verdict": dict(by_verdict),
            "missed": [vars(one) for one in missed],
            "wrongly_flagged": [vars(one) for one in flagged],
            "alarms": [alarm for alarm in alarms if alarm["reasons"]],
        },
    )
    for one in (*missed, *flagged):
        word = "missed" if one.harmful else "flagged"
        echo(f"{word}: {one.job}: {one.fault}: {one.failed} {one.reason[:160]}")
    for alarm in alarms:
        if alarm["reasons"]:
            echo(f"false alarm: {alarm}")
    wrong = sum(bool(alarm["reasons"]) for alarm in alarms)
    kinds = len({one.fault for one in harmful})
    echo(f"harmful: {len(harmful) - len(missed)} of {len(harmful)} caught and named, {kinds} faults")
    echo(f"harmless: {len(flagged)} of {len(harmless)} flagged")
    echo(f"{len(known)} models against themselves: {wrong} false alarms in {len(alarms)} comparisons")
    raise Exit(int(bool(missed or flagged or wrong)))


def models(models_dir: Path) -> list[Path]:
    """Return the folders of the models that have an artifact."""
    return sorted(folder for folder in models_dir.iterdir() if (folder / "artifacts").is_dir())


def of_model(folder: Path, data: Path) -> Iterator[Result]:
    """Plant the changes in each artifact of a model; yield the results."""
    reference, floor = read_reference(folder / "reference"), read_noise_floor(folder / "noise_floor.json")
    for target, recipe in targets().items():
        artifact_dir = folder / "artifacts" / recipe.artifact
        if recipe.precision or not artifact_dir.is_dir():
            continue
        job = f"{folder.name}-{target}"
        session = CachedSession(replace_threads(recipe.runtime.build()).open(artifact_dir))
        evaluate = partial(validate, tolerance=default_settings().tolerance, job=job, floor=floor)
        faults = [fault for fault in (*FAULTS, *HARMLESS) if fault.applies_to(session.artifact)]
        for fault in tqdm(faults, desc=job, unit="fault"):
            yield result(job, fault, evaluate(fault.plant(session), reference))
        if "scores" in session.artifact.contract.output_names:
            # Without the noise floor, which was measured on another reference.
            yield from of_ties(
                job, session, reference, partial(validate, tolerance=default_settings().tolerance, job=job)
            )
        if target == "onnx":
            yield from of_weights(job, artifact_dir, recipe.runtime.build(), reference, evaluate, data)


def of_ties(job: str, session: Any, reference: Reference, evaluate: Any) -> Iterator[Result]:
    """Change the order of equal scores, against a reference with equal scores; yield the results."""
    tied = WrappedSession(session, outputs=with_ties)
    with tempfile.TemporaryDirectory() as folder:
        write_reference(
            Path(folder) / "reference",
            ((sample.meta, sample.image(), outputs_of(tied, sample)) for sample in alone(reference)),
            contract=session.artifact.contract,
            environment={},
        )
        for fault in TIES:
            yield result(job, fault, evaluate(fault.plant(tied), read_reference(Path(folder) / "reference")))


def of_weights(
    job: str, artifact_dir: Path, engine: Any, reference: Reference, evaluate: Any, data: Path
) -> Iterator[Result]:
    """Change the weights in the ONNX file; yield the results."""
    with tempfile.TemporaryDirectory() as temporary:
        for fraction, verdicts in PERTURBED.items():
            changed = rewritten(artifact_dir, Path(temporary), partial(noisy, fraction=fraction))
            fault = Fault(f"noise of {fraction:g} on the weights", lambda session: session, verdicts)
            yield result(job, fault, evaluate(replace_threads(engine).open(changed), reference))
        changed = rewritten(artifact_dir, Path(temporary), coarse)
        session = replace_threads(engine).open(changed)
        dataset = load_coco(data, "val", kind=annotation_kind(session.artifact.contract))
        report = evaluate(
            session,
            reference,
            reduced=True,
            measure=partial(accuracy, reference=reference, dataset=dataset),
        )
        yield result(job, Fault("int8 has collapsed", lambda session: session, ("accuracy",)), report)


def accuracy(session: Any, reference: Reference, dataset: CocoDataset) -> Any:
    """Measure the task metrics that decide an int8 target."""
    assert reference.accuracy is not None
    settings = default_settings()
    return measure_accuracy(
        session,
        reference.accuracy,
        dataset,
        precision="int8",
        budget=settings.budgets["int8"],
        least=settings.min_accuracy,
    )


def rewritten(artifact_dir: Path, folder: Path, change: Any) -> Path:
    """Copy an ONNX artifact with ``change`` applied to its large constants; return its folder."""
    import onnx

    target = folder / "changed"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(artifact_dir, target)
    artifact = read_artifact(artifact_dir)
    path = target / artifact.main_file
    model = onnx.load(path)
    for index, constant in enumerate(model.graph.initializer):
        values = onnx.numpy_helper.to_array(constant)
        if values.dtype == np.float32 and values.ndim > 1:
            changed = change(values, np.random.default_rng(index)).astype(np.float32)
            constant.CopyFrom(onnx.numpy_helper.from_array(changed, constant.name))
    onnx.save(model, path)
    files = {name: sha256_file(target / name) for name in artifact.files}
    replace(artifact, files=files).save(target)
    return target


def noisy(values: np.ndarray, random: np.random.Generator, fraction: float) -> np.ndarray:
    """Add relative normal noise to each number."""
    changed: np.ndarray = values * (1 + fraction * random.standard_normal(values.shape))
    return changed


def coarse(values: np.ndarray, _: np.random.Generator) -> np.ndarray:
    """Quantize a tensor to ``COLLAPSED_BITS`` bits, with one range."""
    step = np.abs(values).max() / 2 ** (COLLAPSED_BITS - 1)
    return np.round(values / step) * step if step else values


def against_itself(folder: Path, images: int) -> Iterator[dict[str, Any]]:
    """Compare variants of the eager model with its reference; yield each image's reasons."""
    net = build_model(load_cfg(folder / "build" / "config.yaml")).eval()
    load_weights(net, read_state_dict(folder / "weights" / "model.safetensors"), folder.name)
    reference = read_reference(folder / "reference")
    contract = Contract.from_json(read_json(folder / "build" / "contract.json"))
    for name, open_variant in variants().items():
        if name in NO_NOISE:
            continue
        with open_variant(net) as other:
            for sample in tqdm(
                choose_samples(reference, images), desc=f"{folder.name}, {name}", unit="image"
            ):
                outputs = run_eager(other, sample.image(), sample.meta.output_size, contract)
                compared = compare(
                    sample.expected(),
                    outputs,
                    tolerance=default_settings().tolerance,
                    contract=contract,
                    scale=sample.meta.output_scale,
                )
                reasons = list(compared.reasons)
                yield {"model": folder.name, "variant": name, "sample": sample.meta.id, "reasons": reasons}


def alone(reference: Reference) -> list[Sample]:
    """Return the samples that are not part of a batch."""
    return [sample for sample in reference.samples if not sample.meta.batch]


def outputs_of(session: Any, sample: Sample) -> dict[str, Any]:
    """Return a session's post-processed outputs for a sample."""
    outputs = session(sample.image(), sample.meta.output_size)
    return postprocess(outputs, sample.meta.image_size, sample.meta.output_size, session.artifact.contract)


def result(job: str, fault: Fault, report: ParityReport) -> Result:
    """Return whether a report's verdicts on a change are the expected ones."""
    failed = tuple(name for name, verdict in report.verdicts.items() if not verdict.passed)
    right = bool(set(failed) & set(fault.verdicts)) if fault.verdicts else not failed
    reasons = report.reasons
    return Result(job, fault.name, bool(fault.verdicts), right, failed, reasons[0] if reasons else "")


def replace_threads(engine: Any) -> Any:
    """Return the engine with one thread; the number of threads does not matter here."""
    return replace(engine, threads=1) if hasattr(engine, "threads") else engine


def _key(images: Sequence[np.ndarray], sizes: Sequence[Size | None]) -> bytes:
    digest = sha256(repr([(image.shape, size) for image, size in zip(images, sizes, strict=True)]).encode())
    for image in images:
        digest.update(np.ascontiguousarray(image).data)
    return digest.digest()


if __name__ == "__main__":
    run(main)
