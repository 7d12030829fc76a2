"""The images of a reference: images of the data set, edge cases made of them, and blank images."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from detexport.contract import Contract
from detexport.data.coco import CocoRecord, read_record
from detexport.data.resize import resize_image, resized_size
from detexport.reference.image_ops import Size, mosaic, noise, plain
from detexport.reference.input_kinds import BLACK, FLAT, NOISE, ODD, TALL, TIES, WHITE, WIDE
from detexport.reference.store import NO_IMAGE, SampleMeta
from detexport.system.digests import sha256_json

ASPECT = 8
"""Aspect ratio of the extreme images."""
ODD_SCALE = 0.9
TILES = 4
TILE_PX = 128
"""Sides of a tile are multiples of this, so that all copies have the same position in the grids of strides:
their scores are then equal to the last bit, or nearly."""

InputImage = tuple[SampleMeta, np.ndarray]


def data_images(
    records: Sequence[CocoRecord], contract: Contract, scales: Sequence[float]
) -> Iterator[InputImage]:
    """Yield each image at each scale of the contract's resize rule."""
    for record in records:
        image = read_record(record, contract.channel_order)
        for scale in scales:
            size = resized_size(record.height, record.width, contract.resize, scale)
            meta = SampleMeta(
                id=f"{_image_name(record.image_id)}-{scale:g}x",
                image_id=record.image_id,
                file=record.file_name.name,
                image_size=size,
                output_size=(record.height, record.width),
                scale=scale,
            )
            yield meta, resize_image(image, size)


def made_images(
    records: Sequence[CocoRecord], contract: Contract, kinds: Sequence[str]
) -> Iterator[InputImage]:
    """Yield edge cases of given kinds: made of the data set's first images, or blank."""
    for meta, image in _all_made(records, contract):
        if meta.kind in kinds:
            yield meta, image


def _all_made(records: Sequence[CocoRecord], contract: Contract) -> Iterator[InputImage]:
    images = [read_record(record, contract.channel_order) for record in records[:ASPECT]]
    first = records[0]
    height, width = resized_size(first.height, first.width, contract.resize)
    even = resized_size(first.height, first.width, contract.resize, ODD_SCALE)
    odd = even[0] | 1, even[1] | 1
    frame = first.height, first.width
    yield (
        replace(
            meta_of(ODD, odd, frame), image_id=first.image_id, file=first.file_name.name, scale=ODD_SCALE
        ),
        resize_image(images[0], odd),
    )
    side = max(1, min(frame) // 2)
    for kind, rows, columns in ((WIDE, 1, ASPECT), (TALL, ASPECT, 1)):
        strip = mosaic(images, rows, columns, (rows * side, columns * side))
        size = resized_size(rows * side, columns * side, contract.resize)
        yield meta_of(kind, size, (rows * side, columns * side)), resize_image(strip, size)
    for kind in (FLAT, BLACK, WHITE, NOISE):
        yield meta_of(kind, (height, width)), blank_image(kind, (height, width), contract)


def repeated_image(image: np.ndarray) -> InputImage:
    """Tile an image with copies of itself, for equal scores.

    The image should have few objects: if the copies fill a list that the model truncates, such as its
    proposals, any of them may be left out.
    """
    _, height, width = image.shape
    tile = resize_image(image, (_tile_side(height), _tile_side(width)))
    repeated = np.tile(tile, (1, TILES, TILES))
    return meta_of(TIES, repeated.shape[1:]), repeated


def blank_image(kind: str, size: Size, contract: Contract) -> np.ndarray:
    """Return a blank image, or noise: ``FLAT``, ``BLACK``, ``WHITE`` or ``NOISE``."""
    if kind == NOISE:
        return noise(size)
    colors = {FLAT: contract.pixel_mean, BLACK: (0.0,), WHITE: (255.0,)}
    return plain(size, colors[kind])


def _tile_side(side: int) -> int:
    return max(1, round(side / 2 / TILE_PX)) * TILE_PX


def _image_name(image_id: int | str) -> str:
    """Return an image's name for the ids of its samples, which are names of files."""
    if isinstance(image_id, int):
        return f"{image_id:06d}"
    readable = re.sub(r"[^\w-]+", "-", image_id, flags=re.ASCII)[:32]
    return f"{readable}-{sha256_json(image_id)[:8]}"


def id_of(kind: str) -> str:
    """Return the id of the only sample of a kind."""
    return kind.replace(" ", "-")


def meta_of(kind: str, size: Size, output_size: Size | None = None) -> SampleMeta:
    """Return the meta of an image that was made; the frame of its outputs is its own size by default."""
    return SampleMeta(
        id=id_of(kind),
        image_id=NO_IMAGE,
        file="",
        image_size=size,
        output_size=output_size or size,
        scale=1.0,
        kind=kind,
    )
