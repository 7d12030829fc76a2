"""The stored reference: the eager model's outputs on validation images, computed once."""

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
"""Kind of the samples that are images of the data set, at some scale."""
NO_IMAGE = -1
"""Image id of a sample whose image was made."""


@dataclass(frozen=True)
class SampleMeta:
    """The description of a sample, which is read without its arrays.

    Args:
        id: name of the sample, and of its file.
        image_id: the image's id in its annotation file; ``NO_IMAGE`` for one that was made.
        file: the image's file name; for one that was made, the file that it was made of, or empty.
        image_size: height and width of the graph's image, in px.
        output_size: height and width of the frame of the outputs, in px.
        scale: factor on the contract's resize rule.
        kind: ``DATA``, or one of ``detexport.reference.input_kinds``.
        note: the result of a search, in words.
        batch: name of the group of images that were run in one call, since padding makes an image's outputs
            depend on the others slightly; empty if the image was run alone.
        threshold: the score threshold near which one of its detections is.
        threshold_distance: score - threshold of that detection; if it is not positive, the detection is not
            among the outputs.
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
        """Return output size / input size, the larger of both sides; it scales limits in px of the input."""
        pairs = zip(self.output_size, self.image_size, strict=True)
        return max(output / image for output, image in pairs)


@dataclass(frozen=True)
class Sample:
    """A stored sample; its arrays are read by its methods.

    Args:
        meta: its description in ``reference.json``.
        detections: number of the eager model's detections or proposals.
        path: the file of arrays.
    """

    meta: SampleMeta
    detections: int
    path: Path

    def image(self) -> np.ndarray:
        """Read the graph's image: (3, H, W) uint8, the contract's channel order, resized."""
        with np.load(self.path) as arrays:
            image: np.ndarray = arrays["image"]
        return image

    def expected(self) -> Outputs:
        """Read the eager model's outputs, in px of the output."""
        with np.load(self.path) as arrays:
            return unpack(arrays)


@dataclass(frozen=True)
class EagerAccuracy:
    """The eager model's metrics, stored with the reference.

    Args:
        metrics: see ``detexport.metrics.evaluate``.
        image_ids: the validation images that it was evaluated on.
        tallies: contributions of each image, in arrays, see ``detexport.metrics.tallies.pack_tallies``.
    """

    metrics: dict[str, float]
    image_ids: tuple[int | str, ...]
    tallies: dict[str, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the tallies into a folder; return the rest, for the index."""
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
        folder: its path.
        environment: versions and threads that the eager model ran with.
        contract: of the model that was run, see ``of_model``.
        samples: in the order in which they were written.
        coverage: what the samples cover.
        accuracy: the eager model's metrics against ground truth; None if not measured.
    """

    folder: Path
    environment: dict[str, Any]
    contract: Contract
    samples: tuple[Sample, ...]
    coverage: InputCoverage
    accuracy: EagerAccuracy | None = None


def of_model(contract: Contract) -> Contract:
    """Return the contract without what an export decides: input sizes, and whether masks are pasted.

    The model's post-processed outputs do not depend on them.
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
    """Write a reference sample by sample, so that memory does not grow; the folder appears when complete.

    Args:
        folder: its folder; replaced if it exists.
        samples: per sample its meta, the graph's image (3, H, W) uint8 and the eager model's post-processed
            outputs in px of ``output_size``.
        contract: the contract of the eager model.
        environment: versions and threads, which the numbers may depend on.
        accuracy: see ``Reference``.

    Raises:
        DataError: a sample violates ``Outputs``, does not fit its meta, or has the id of another.
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
        faults.append("another sample has this id")
    if faults:
        raise DataError(
            f"sample '{meta.id}' cannot be a reference",
            got=", ".join(faults),
            expected="finite outputs in the output's frame, best score first",
            remedy="check the eager model: its outputs are invalid, or the weights hold NaN",
        )
