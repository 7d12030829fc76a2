"""The Parquet files of a batch prediction: one row per image, a fixed group of images per file."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from detexport.batch_prediction.location import Location
from detexport.contract import Contract
from detexport.errors import BROKEN, DetexportError
from detexport.system.extras import extra_imports

with extra_imports():
    import pyarrow
    from pyarrow import parquet

FOLDER = "parts"
DIGITS = 7

_RLE = pyarrow.struct([("size", pyarrow.list_(pyarrow.int32())), ("counts", pyarrow.string())])
_FLOATS = pyarrow.list_(pyarrow.float32())
_SEGMENT = [("class", pyarrow.int64()), ("class_name", pyarrow.string()), ("mask", _RLE)]
_THING = [("id", pyarrow.int64()), ("isthing", pyarrow.bool_()), ("instance", pyarrow.int64())]
_COLUMNS = {
    "pred_boxes": [("boxes", pyarrow.list_(_FLOATS))],
    "scores": [("scores", _FLOATS)],
    "pred_classes": [
        ("classes", pyarrow.list_(pyarrow.int64())),
        ("class_names", pyarrow.list_(pyarrow.string())),
    ],
    "pred_masks": [("masks", pyarrow.list_(_RLE))],
    "pred_keypoints": [("keypoints", pyarrow.list_(pyarrow.list_(_FLOATS)))],
    "proposal_boxes": [("proposal_boxes", pyarrow.list_(_FLOATS))],
    "objectness_logits": [("objectness_logits", _FLOATS)],
    "sem_seg": [("sem_seg", pyarrow.list_(pyarrow.struct(_SEGMENT)))],
}
"""The columns of each output of a graph: see ``detexport.predictions.predict_images.to_plain``."""
_PANOPTIC = ("panoptic_seg", pyarrow.list_(pyarrow.struct([*_THING, *_SEGMENT])))


def schema_of(contract: Contract) -> pyarrow.Schema:
    """Return the Parquet schema of a model's results.

    A row has ``image``, the path below the folder of images; ``error``, why the image could not be read, or
    null; ``height`` and ``width`` in px; and the columns of ``detexport predict --json``.
    """
    columns = [("image", pyarrow.string()), ("error", pyarrow.string())]
    columns += [("height", pyarrow.int32()), ("width", pyarrow.int32())]
    for name in contract.output_names:
        columns += _COLUMNS[name]
    return pyarrow.schema([*columns, *([_PANOPTIC] if contract.panoptic is not None else [])])


@dataclass(frozen=True)
class Part:
    """One Parquet file of the results, and the images whose rows it holds.

    Args:
        index: number of the file, from 0.
        images: their paths, relative to the folder of images.
    """

    index: int
    images: tuple[str, ...]

    @property
    def file(self) -> str:
        """Path of the file, relative to the output."""
        return f"{FOLDER}/part-{self.index:0{DIGITS}d}.parquet"


def split(images: Sequence[str], size: int) -> list[Part]:
    """Return the parts of ``size`` images each; the last one may have fewer."""
    return [Part(start // size, tuple(images[start : start + size])) for start in range(0, len(images), size)]


def missing(parts: Sequence[Part], output: Location) -> list[Part]:
    """Return the parts that are not written yet."""
    written = set(output.files(FOLDER, missing=True))
    return [part for part in parts if part.file not in written]


class DetectsImage(Protocol):
    """Returns the detections of an encoded image as plain values; see ``Detections.to_plain``."""

    def __call__(self, encoded: bytes) -> dict[str, Any]:
        """Raise DataError if it is not an image, ArtifactError if the graph takes none of its size."""
        ...


def write_part(
    part: Part, images: Location, output: Location, schema: pyarrow.Schema, detect: DetectsImage
) -> str:
    """Run the model on the images of a part, and write the part's file.

    The file depends only on the images, so writing it twice gives the same bytes.

    Returns:
        Empty; or, if the machine or the network failed at an image, the reason, and the part is not written.
    """
    try:
        rows = [_row(name, images, detect) for name in part.images]
    except DetexportError as error:
        return str(error)
    content = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), content)
    output.write(part.file, lambda stream: stream.write(content.getvalue()))
    return ""


def _row(name: str, images: Location, detect: DetectsImage) -> dict[str, Any]:
    """Return the row of an image, with the reason if it is the image's fault that it has no detections."""
    try:
        return {"image": name, **detect(images.read(name))}
    except DetexportError as error:
        if error.exit_code == BROKEN:
            raise
        return {"image": name, "error": str(error)}


def read_rows(parts: Sequence[Part], output: Location) -> Iterator[dict[str, Any]]:
    """Yield the rows of all parts, in the order of the images."""
    for part in parts:
        with output.reading(part.file) as file:
            yield from cast(list[dict[str, Any]], parquet.read_table(file).to_pylist())


def read_errors(parts: Sequence[Part], output: Location) -> list[tuple[str, str]]:
    """Return the images that could not be read, with the reasons."""
    found = []
    for part in parts:
        with output.reading(part.file) as file:
            rows = parquet.read_table(file, columns=["image", "error"]).to_pylist()
        found += [(row["image"], row["error"]) for row in rows if row["error"] is not None]
    return found
