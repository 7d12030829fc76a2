"""Inputs that hurt: which images the reference is made on, from the data set and beyond it.

An artifact that is right on a handful of photographs of one size may still have frozen that size, a batch of
one or a branch that some detection takes. So a reference always holds these kinds, whatever the model:

``DATA``: images of the data set, each at several sizes.
``ODD``: odd height and width. ``WIDE``, ``TALL``: one side many times the other.
``FLAT``, ``BLACK``, ``WHITE``, ``NOISE``: of the size that is traced; nothing to detect, values at the edge.
``TIES``: an image that repeats itself. ``MOST``: mosaics, for as many detections as the model can give.
``ONE``: exactly one detection. ``NEAR``: a score within a hair of the threshold that decides.
``BATCH``: images of different sizes in one call.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import chain

import numpy as np
from tqdm import tqdm

from detexport.artifact import Artifact
from detexport.contract import Contract
from detexport.data.coco import CocoRecord, read_record
from detexport.data.resize import resize_image, resized_size
from detexport.outputs import Outputs, count_rows
from detexport.reference.images import Blend, Size, fitting, grids, mosaic, noise, plain
from detexport.reference.input_coverage import score_thresholds
from detexport.reference.progress import Progress
from detexport.reference.store import DATA, NO_IMAGE, Sample, SampleMeta
from detexport.reference.threshold_search import Find, Probe, Trail
from detexport.system.digests import sha256_json

ODD = "odd size"
WIDE = "wide"
TALL = "tall"
FLAT = "one color"
BLACK = "black"
WHITE = "white"
NOISE = "noise"
TIES = "repeated"
MOST = "most detections"
ONE = "one detection"
NEAR = "near a threshold"
BATCH = "batch"

MADE = (ODD, WIDE, TALL, FLAT, BLACK, WHITE, NOISE)
"""Kinds that are made of the first images, or are blank."""
KINDS = (*MADE, TIES, MOST, ONE, NEAR, BATCH)
"""All kinds beside ``DATA``."""

KEPT = 25
"""Images of the data set that others are made of; memory does not grow with their number beyond that."""
BATCHES = 2
BATCH_SIZE = 3
ASPECT = 8
"""Longer side of the extreme images by their shorter one."""
ODD_SCALE = 0.9
TILES = 4
TILE_PX = 128
"""Sides of a tile are multiples of this, so that all copies meet the grids of strides alike: their scores
are then equal to the last bit, or nearly."""
PROBED_BELOW = 0.01
"""How far below the lowest threshold scores are looked at."""

Run = Callable[[Sequence[np.ndarray], Sequence[Size]], list[Outputs]]
"""The eager model on images in one call; each image's outputs in px of its output size."""
Picture = tuple[SampleMeta, np.ndarray]
Triple = tuple[SampleMeta, np.ndarray, Outputs]


@dataclass(frozen=True)
class Plan:
    """How much is asked of the eager model; ``conf/parity`` has the same.

    Args:
        scales: of each image of the data set, on the contract's resize rule; the first is traced.
        kinds: of the images beside those of the data set.
        mosaics: at most so many runs in search of the most detections.
        mosaic_area: pixels of a mosaic, at most, as a multiple of the traced image's.
        one_runs: at most so many in search of exactly one detection.
        threshold_runs: at most so many in search of scores near a threshold, for each threshold.
        hair: a score that lies so near to a threshold is near enough.
        offset: scores are also sought so far above and below a threshold: beyond what rounding does, and
            so near that a slightly different threshold decides otherwise.
    """

    scales: tuple[float, ...] = (1.0, 0.75, 1.5)
    kinds: tuple[str, ...] = KINDS
    mosaics: int = 3
    mosaic_area: float = 4.0
    one_runs: int = 12
    threshold_runs: int = 40
    hair: float = 1e-5
    offset: float = 5e-4

    def most_runs(self, records: int, contract: Contract) -> int:
        """At most so many runs of the eager model, on one or several images each.

        Args:
            records: number of images of the data set.
            contract: the model's.
        """
        thresholds = len(score_thresholds(contract))
        runs = records * len(self.scales) + sum(kind in (*MADE, TIES) for kind in self.kinds)
        runs += BATCHES * (BATCH in self.kinds)
        runs += self.mosaics * (MOST in self.kinds and bool(contract.row_names))
        if thresholds and {ONE, NEAR} & {*self.kinds}:
            # The ends of a trail, what is sought on it, and what is found.
            runs += 2 + self.one_runs + 1 + thresholds * (self.threshold_runs + 4)
        return runs


QUICK = Plan(kinds=(ODD, FLAT))
"""Few inputs, for the check of a fresh export: a frozen size and lost branches show on them."""


def inputs(
    records: Sequence[CocoRecord], contract: Contract, plan: Plan, run: Run, probe: Probe | None
) -> Iterator[Triple]:
    """All samples of a reference, those of the data set first; the same bytes every time.

    Args:
        records: images of the data set, at least one; the first is traced.
        contract: the model's.
        plan: how much is asked of the model.
        run: the eager model.
        probe: likewise, for a model that gives scores; see ``probed_threshold``.
    """
    counts: dict[str, int] = {}
    kept: list[Picture] = []
    for meta, image in chain(_data(records, contract, plan.scales), _made(records, contract, plan.kinds)):
        (outputs,) = run([image], [meta.output_size])
        counts[meta.id] = count_rows(outputs)
        if meta.kind != DATA or len(kept) < KEPT * len(plan.scales):
            kept.append((meta, image))
        yield meta, image, outputs
    whole = [(meta, image) for meta, image in kept if meta.kind == DATA and meta.scale == plan.scales[0]]
    crowded = [image for _, image in sorted(whole, key=lambda picture: -counts[picture[0].id])]
    with_any = [picture for picture in whole if counts[picture[0].id]]
    _, sparse = min(with_any or whole, key=lambda picture: counts[picture[0].id])
    if TIES in plan.kinds:
        meta, image = _repeated(sparse)
        yield meta, image, run([image], [meta.output_size])[0]
    if contract.row_names and MOST in plan.kinds:
        yield from _most(crowded, contract, plan, run)
    if contract.row_names and probe is not None and {ONE, NEAR} & {*plan.kinds}:
        emptiest = min((FLAT, BLACK, WHITE, NOISE), key=lambda kind: counts.get(_id(kind), 0))
        nothing = _nothing(emptiest, crowded[0].shape[1:], contract)
        trail = Trail(Blend(nothing, crowded[0]), probe)
        for meta, image in _sought(trail, contract, plan, has_one=1 in counts.values()):
            yield meta, image, run([image], [meta.output_size])[0]
    if BATCH in plan.kinds:
        yield from _batches(kept, run)


def resumed_inputs(
    records: Sequence[CocoRecord],
    contract: Contract,
    plan: Plan,
    run: Run,
    probe: Probe | None,
    progress: Progress | None = None,
) -> Iterator[Triple]:
    """What ``inputs`` gives, with a bar; what an earlier run has computed is not computed again.

    Args:
        records: see ``inputs``.
        contract: likewise.
        plan: likewise.
        run: likewise.
        probe: likewise.
        progress: what an earlier run has computed. The search is the same every time, so it asks for the same
            images again.
    """
    progress = progress or Progress()
    with tqdm(total=plan.most_runs(len(records), contract), desc="reference", unit="run") as bar:

        def run_images(images: Sequence[np.ndarray], output_sizes: Sequence[Size]) -> list[Outputs]:
            bar.update()
            call = cache(partial(run, images, output_sizes))
            name = f"run {_digest(images)} {list(output_sizes)}"
            return [
                progress.outputs_once(f"{name} {place}", partial(_given, call, place))
                for place in range(len(images))
            ]

        def scores(image: np.ndarray) -> np.ndarray:
            bar.update()
            assert probe is not None
            name, ask = f"scores {_digest([image])}", partial(probe, image)
            found: np.ndarray = progress.outputs_once(name, lambda: {"scores": ask()})["scores"]
            return found

        yield from inputs(records, contract, plan, run_images, scores if probe else None)


def _given(call: Callable[[], list[Outputs]], place: int) -> Outputs:
    return call()[place]


def _digest(images: Sequence[np.ndarray]) -> str:
    """Of images (3, H, W) uint8, in their order."""
    return sha256_json([[image.shape, hashlib.sha256(image.tobytes()).hexdigest()] for image in images])


def probed_threshold(contract: Contract) -> float:
    """The score threshold of the model that a probe runs: somewhat below the lowest that decides.

    At most halved: a model without a threshold would have to suppress every box that it proposes.
    """
    lowest = min(score_thresholds(contract))
    return max(lowest / 2, lowest - PROBED_BELOW)


def groups(samples: Iterable[Sample]) -> list[tuple[Sample, ...]]:
    """Samples by the call that they go through a model in: batches together, all others alone."""
    grouped: dict[str, list[Sample]] = {}
    for sample in samples:
        grouped.setdefault(f"batch {sample.meta.batch}" if sample.meta.batch else sample.meta.id, []).append(
            sample
        )
    return [tuple(group) for group in grouped.values()]


def claimed(artifact: Artifact, group: Sequence[SampleMeta]) -> str:
    """Why an artifact does not claim to run a group of images in one call; empty where it does.

    Args:
        artifact: the manifest; its contract and ``image_sides`` say what it takes.
        group: one sample, or those of a batch: see ``groups``.
    """
    if any(meta.batch for meta in group) and artifact.batch != "any":
        return "the artifact takes one image in a call"
    smallest, largest = artifact.image_sides
    for meta in group:
        for dim, side in zip(artifact.contract.inputs[0].shape[1:], meta.image_size, strict=True):
            if isinstance(dim, int) and side != dim:
                return "the artifact takes images of one size: " + " x ".join(
                    map(str, artifact.contract.inputs[0].shape[1:])
                )
            if not smallest <= side <= largest:
                return f"the artifact takes images with sides of {smallest} to {largest} px"
    return ""


def _data(records: Sequence[CocoRecord], contract: Contract, scales: Sequence[float]) -> Iterator[Picture]:
    """Each image at each scale of the model's own size."""
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


def _made(records: Sequence[CocoRecord], contract: Contract, kinds: Sequence[str]) -> Iterator[Picture]:
    """Other sizes and contents, made of the data set's first images or of nothing."""
    for meta, image in _all_made(records, contract):
        if meta.kind in kinds:
            yield meta, image


def _all_made(records: Sequence[CocoRecord], contract: Contract) -> Iterator[Picture]:
    images = [read_record(record, contract.channel_order) for record in records[:ASPECT]]
    first = records[0]
    height, width = resized_size(first.height, first.width, contract.resize)
    even = resized_size(first.height, first.width, contract.resize, ODD_SCALE)
    odd = even[0] | 1, even[1] | 1
    frame = first.height, first.width
    yield (
        replace(_meta(ODD, odd, frame), image_id=first.image_id, file=first.file_name.name, scale=ODD_SCALE),
        resize_image(images[0], odd),
    )
    side = max(1, min(frame) // 2)
    for kind, rows, columns in ((WIDE, 1, ASPECT), (TALL, ASPECT, 1)):
        strip = mosaic(images, rows, columns, (rows * side, columns * side))
        size = resized_size(rows * side, columns * side, contract.resize)
        yield _meta(kind, size, (rows * side, columns * side)), resize_image(strip, size)
    for kind in (FLAT, BLACK, WHITE, NOISE):
        yield _meta(kind, (height, width)), _nothing(kind, (height, width), contract)


def _repeated(image: np.ndarray) -> Picture:
    """An image many times.

    The fewer objects it shows, the better: where copies fill a list that the model cuts, and that nobody sees
    from outside, such as that of its proposals, any of them may be left out.
    """
    _, height, width = image.shape
    tile = resize_image(image, (_tile_side(height), _tile_side(width)))
    repeated = np.tile(tile, (1, TILES, TILES))
    return _meta(TIES, repeated.shape[1:]), repeated


def _nothing(kind: str, size: Size, contract: Contract) -> np.ndarray:
    if kind == NOISE:
        return noise(size)
    colors = {FLAT: contract.pixel_mean, BLACK: (0.0,), WHITE: (255.0,)}
    return plain(size, colors[kind])


def _most(crowded: list[np.ndarray], contract: Contract, plan: Plan, run: Run) -> Iterator[Triple]:
    """The mosaic on which the model gives the most; of images in the order of what it gave on them."""
    best: Triple | None = None
    most = -1
    _, height, width = crowded[0].shape
    for side in grids(plan.mosaics):
        size = fitting((side * height, side * width), plan.mosaic_area * height * width)
        image = mosaic(crowded, side, side, size)
        (outputs,) = run([image], [size])
        if count_rows(outputs) > most:
            most = count_rows(outputs)
            note = f"{most} found, {contract.max_detections} at most, in {side} x {side} images"
            best = replace(_meta(MOST, size), note=note), image, outputs
        if most >= contract.max_detections >= 0:
            break
    if best is not None:
        yield best


def _sought(trail: Trail, contract: Contract, plan: Plan, *, has_one: bool) -> Iterator[Picture]:
    """Images with one detection and with scores near the thresholds, as far as the trail leads to any."""
    size = trail.blend.first.shape[1:]
    if ONE in plan.kinds and not has_one:
        place = trail.find_one(contract.score_threshold, runs=plan.one_runs)
        if place is not None:
            yield _meta(ONE, size), trail.blend(place)
    for threshold in score_thresholds(contract) if NEAR in plan.kinds else ():
        for name, find in _near(trail, threshold, plan).items():
            side = "above" if find.distance > 0 else "below"
            meta = replace(
                _meta(NEAR, size),
                id=f"near-{threshold:g}-{name}",
                note=f"a score {abs(find.distance):.2g} {side} the threshold {threshold:g}",
                threshold=threshold,
                threshold_distance=find.distance,
            )
            yield meta, trail.blend(find.part)


def _near(trail: Trail, threshold: float, plan: Plan) -> dict[str, Find]:
    """Places with a score next to a threshold on either side, and with one ``plan.offset`` away."""
    left = plan.threshold_runs
    left -= trail.approach(threshold, runs=left - left // 4, hair=plan.hair)
    finds = {"above": trail.nearest(threshold, 1), "below": trail.nearest(threshold, -1)}
    for name, sign in (("higher", 1), ("lower", -1)):
        level = threshold + sign * plan.offset
        left -= trail.approach(level, runs=left, hair=plan.offset / 4)
        nearest = [find for side in (1, -1) if (find := trail.nearest(level, side)) is not None]
        best = min(nearest, key=lambda find: abs(find.distance), default=None)
        if best is not None and abs(best.distance) <= plan.offset / 2:
            finds[name] = Find(best.part, best.distance + sign * plan.offset)
    return {name: find for name, find in finds.items() if find is not None}


def _batches(pictures: Sequence[Picture], run: Run) -> Iterator[Triple]:
    """Images of different sizes in one call: of the data set, and the extreme ones with one of nothing."""
    of_data = [picture for picture in pictures if picture[0].kind == DATA]
    extreme = [picture for picture in pictures if picture[0].kind in (WIDE, TALL, FLAT)]
    for number, batch in enumerate((_of_different_sizes(of_data), extreme), start=1):
        given = run([image for _, image in batch], [meta.output_size for meta, _ in batch])
        for place, ((meta, image), outputs) in enumerate(zip(batch, given, strict=True)):
            note = f"{meta.id} in a batch of {len(batch)}"
            id = f"{BATCH}-{number}-{place}"
            yield replace(meta, id=id, kind=BATCH, note=note, batch=str(number)), image, outputs


def _of_different_sizes(pictures: Sequence[Picture]) -> list[Picture]:
    """Some pictures, of other images and sizes one after another where there are any."""
    chosen: list[Picture] = []
    for picture in (*pictures, *pictures):
        sizes = {meta.image_size for meta, _ in chosen}
        ids = {meta.image_id for meta, _ in chosen}
        if len(chosen) < BATCH_SIZE and picture[0].image_size not in sizes and picture[0].image_id not in ids:
            chosen.append(picture)
    return chosen


def _tile_side(side: int) -> int:
    return max(1, round(side / 2 / TILE_PX)) * TILE_PX


def _image_name(image_id: int | str) -> str:
    """Name of an image in the names of its samples, which are names of files."""
    if isinstance(image_id, int):
        return f"{image_id:06d}"
    readable = re.sub(r"[^\w-]+", "-", image_id, flags=re.ASCII)[:32]
    return f"{readable}-{sha256_json(image_id)[:8]}"


def _id(kind: str) -> str:
    return kind.replace(" ", "-")


def _meta(kind: str, size: Size, output_size: Size | None = None) -> SampleMeta:
    """Of an image that was made, in the frame of its own pixels unless another one is given."""
    return SampleMeta(
        id=_id(kind),
        image_id=NO_IMAGE,
        file="",
        image_size=size,
        output_size=output_size or size,
        scale=1.0,
        kind=kind,
    )
