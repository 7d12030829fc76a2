"""The eager model's outputs on validation images: computed once, stored, read by every validation."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from detexport.contract import IMAGE, Contract
from detexport.errors import DataError
from detexport.outputs import Outputs, count_rows, field_faults, pack, unpack
from detexport.reference.input_coverage import InputCoverage, InputCoverageCounter
from detexport.system.atomic import atomic_dir
from detexport.system.files import read_json, write_json

INDEX = "reference.json"
TALLIES = "tallies.npz"
DATA = "data"
"""Kind of the samples that are images of the data set as they are, at some scale."""
NO_IMAGE = -1
"""In place of an image's id: the sample's image was made."""


@dataclass(frozen=True)
class SampleMeta:
    """What is known of a sample without loading it.

    Args:
        id: name of the sample, and of its file.
        image_id: the image's id in its annotation file; ``NO_IMAGE`` for one that was made.
        file: the image's file name; of one that was made, that of the image that it was made of, or none.
        image_size: height and width of the graph's image, in px.
        output_size: height and width of the frame that outputs are given in, in px.
        scale: factor on the contract's resize rule.
        kind: what it is for: ``DATA``, or one of ``detexport.reference.plan``.
        note: what was reached, for people.
        batch: name of the group of images that went through the eager model in one call, as padding makes an
            image's outputs depend on the others a little; empty where the image was alone.
        threshold: the score threshold that one of its detections was brought near to.
        threshold_distance: that detection's score less the threshold; not positive where the detection is
            for this reason not among the outputs.
    """

    id: str
    image_id: int | str
    file: str
    image_size: tuple[int, int]
    output_size: tuple[int, int]
    scale: float
    kind: str = DATA
    note: str = ""
    batch: str = ""
    threshold: float | None = None
    threshold_distance: float | None = None

    @property
    def output_scale(self) -> float:
        """Output size / input size, the larger of both sides: what limits in px of the input grow by."""
        pairs = zip(self.output_size, self.image_size, strict=True)
        return max(output / image for output, image in pairs)


@dataclass(frozen=True)
class Sample:
    """A stored sample; its arrays are read when asked for.

    Args:
        meta: what ``reference.json`` says of it.
        detections: number of the eager model's detections or proposals.
        path: the file of arrays.
    """

    meta: SampleMeta
    detections: int
    path: Path

    def image(self) -> np.ndarray:
        """The graph's image: (3, H, W) uint8, the contract's channel order, already resized."""
        with np.load(self.path) as arrays:
            image: np.ndarray = arrays["image"]
        return image

    def expected(self) -> Outputs:
        """The eager model's outputs, in px of the output."""
        with np.load(self.path) as arrays:
            return unpack(arrays)


@dataclass(frozen=True)
class EagerAccuracy:
    """What the eager model reached, stored with the reference.

    Args:
        metrics: see ``detexport.metrics.evaluate``.
        image_ids: the validation images it was measured on.
        tallies: what each image adds, in arrays, see ``detexport.metrics.tallies.pack_tallies``.
    """

    metrics: dict[str, float]
    image_ids: tuple[int | str, ...]
    tallies: dict[str, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the tallies into a folder; what is left goes into its index."""
        with (folder / TALLIES).open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **self.tallies)
        return {"metrics": self.metrics, "image_ids": list(self.image_ids)}

    @classmethod
    def read(cls, value: dict[str, Any], folder: Path) -> "EagerAccuracy":
        """Undo ``save``."""
        with np.load(folder / TALLIES) as arrays:
            tallies = dict(arrays)
        return cls(value["metrics"], tuple(value["image_ids"]), tallies)


@dataclass(frozen=True)
class Reference:
    """A folder of samples.

    Args:
        folder: where it lies.
        environment: versions and threads that the eager model ran with.
        contract: of the model that was run, see ``of_model``.
        samples: in the order in which they were written.
        coverage: what the samples cover.
        accuracy: how good the eager model is against annotations; none where it was not measured.
    """

    folder: Path
    environment: dict[str, Any]
    contract: Contract
    samples: tuple[Sample, ...]
    coverage: InputCoverage
    accuracy: EagerAccuracy | None = None


def of_model(contract: Contract) -> Contract:
    """The contract without what an artifact decides: which sizes it takes, where its graph ends.

    A model gives the same whatever they are.
    """
    inputs = tuple(
        replace(spec, shape=(spec.shape[0], *IMAGE.shape[1:])) if spec.name == IMAGE.name else spec
        for spec in contract.inputs
    )
    return replace(contract, inputs=inputs).ending("pasted")


def write_reference(
    folder: Path,
    samples: Iterable[tuple[SampleMeta, np.ndarray, Outputs]],
    *,
    contract: Contract,
    environment: dict[str, Any],
    accuracy: EagerAccuracy | None = None,
) -> None:
    """Write a reference, sample by sample, so that memory does not grow; the folder appears when it is whole.

    Args:
        folder: where to; what is there is replaced.
        samples: per sample its meta, the graph's image (3, H, W) uint8 and the eager model's post-processed
            outputs in px of ``output_size``.
        contract: the contract of the eager model.
        environment: versions, threads: what the numbers may depend on.
        accuracy: see ``Reference``.

    Raises:
        DataError: a sample is not what ``Outputs`` promises, denies its meta, or has a taken id.
    """
    index: list[dict[str, Any]] = []
    counter = InputCoverageCounter(contract)
    with atomic_dir(folder) as partial:
        (partial / "samples").mkdir()
        for meta, image, outputs in samples:
            _check(meta, image, outputs, taken={entry["id"] for entry in index})
            with (partial / "samples" / f"{meta.id}.npz").open("wb") as file:
                np.savez_compressed(file, allow_pickle=False, image=image, **pack(outputs))
            index.append({**asdict(meta), "detections": count_rows(outputs)})
            _count(counter, meta, outputs)
        write_json(
            partial / INDEX,
            {
                "environment": environment,
                "contract": of_model(contract).to_json(),
                "accuracy": accuracy.save(partial) if accuracy else None,
                "input_coverage": asdict(counter.coverage()),
                "samples": index,
            },
        )


def read_reference(folder: Path) -> Reference:
    """Read a reference's index; the samples' arrays stay on disk.

    Raises:
        DataError: there is no reference, or it is incomplete.
    """
    try:
        value = read_json(folder / INDEX)
        samples = tuple(_sample(entry, folder) for entry in value["samples"])
        accuracy = EagerAccuracy.read(value["accuracy"], folder) if value["accuracy"] else None
        coverage = InputCoverage.from_json(value["input_coverage"])
        contract = Contract.from_json(value["contract"])
        return Reference(folder, value["environment"], contract, samples, coverage, accuracy)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder} is not a reference",
            got=f"{type(error).__name__}: {error}",
            expected=f"a folder with {INDEX} and samples/, as the stage `reference` writes it",
            remedy="run the stage `reference` again",
        ) from error


def _sample(entry: dict[str, Any], folder: Path) -> Sample:
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()
    }
    detections = fields.pop("detections")
    path = folder / "samples" / f"{fields['id']}.npz"
    if not path.is_file():
        raise FileNotFoundError(path)
    return Sample(SampleMeta(**fields), detections, path)


def _count(counter: InputCoverageCounter, meta: SampleMeta, outputs: Outputs) -> None:
    distances: dict[float, float] = {}
    if meta.threshold is not None and meta.threshold_distance is not None:
        distances[meta.threshold] = meta.threshold_distance
    counter.add(kind=meta.kind, size=meta.image_size, batch=meta.batch, distances=distances, outputs=outputs)


def _check(meta: SampleMeta, image: np.ndarray, outputs: Outputs, *, taken: set[str]) -> None:
    faults = field_faults(outputs, meta.output_size)
    if image.dtype != np.uint8 or image.shape != (3, *meta.image_size):
        faults.append(f"image: {image.dtype} {image.shape}, expected uint8 {(3, *meta.image_size)}")
    if meta.id in taken:
        faults.append("a sample of this id was written before")
    if faults:
        raise DataError(
            f"sample '{meta.id}' cannot be a reference",
            got=", ".join(faults),
            expected="finite outputs in the output's frame, best score first",
            remedy="look at the eager model: its own outputs are at fault, or the weights hold NaN",
        )
