"""The inputs of a reference, and the model's outputs on them: ``plan`` lists the kinds.

Some kinds depend on the model, such as an image with one detection: they are searched for by running it.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import chain

import numpy as np

from detexport.contract import Contract
from detexport.data.coco import CocoRecord
from detexport.outputs import Outputs, count_rows
from detexport.reference.image_ops import Blend, Size, fitting, grids, mosaic
from detexport.reference.input_coverage import score_thresholds
from detexport.reference.input_images import (
    InputImage,
    blank_image,
    data_images,
    id_of,
    made_images,
    meta_of,
    repeated_image,
)
from detexport.reference.input_kinds import (
    BATCH,
    BLACK,
    FLAT,
    MOST,
    NEAR,
    NOISE,
    ONE,
    TALL,
    TIES,
    WHITE,
    WIDE,
    Plan,
)
from detexport.reference.resume import Progress
from detexport.reference.store import DATA, SampleMeta
from detexport.reference.threshold_search import NearScore, Probe, ThresholdSearch
from detexport.system.digests import sha256_json
from detexport.system.progress import progress_bar

KEPT = 25
"""Number of images of the data set that others are made of, which limits the memory."""
BATCH_SIZE = 3

Run = Callable[[Sequence[np.ndarray], Sequence[Size]], list[Outputs]]
"""Runs the eager model on images in one call; each image's outputs are in px of its output size."""
SampleOutputs = tuple[SampleMeta, np.ndarray, Outputs]
"""A sample, its image, and the eager model's outputs."""


def inputs(
    records: Sequence[CocoRecord], contract: Contract, plan: Plan, run: Run, probe: Probe | None
) -> Iterator[SampleOutputs]:
    """Yield all samples of a reference, deterministically, those of the data set first.

    Args:
        records: images of the data set, at least one.
        contract: the model's.
        plan: kinds of inputs and numbers of runs.
        run: runs the eager model.
        probe: returns the scores of a copy with a lower threshold (``probed_threshold``); None if the model
            has no scores.
    """
    counts: dict[str, int] = {}
    kept: list[InputImage] = []
    for meta, image in chain(
        data_images(records, contract, plan.scales), made_images(records, contract, plan.kinds)
    ):
        (outputs,) = run([image], [meta.output_size])
        counts[meta.id] = count_rows(outputs)
        if meta.kind != DATA or len(kept) < KEPT * len(plan.scales):
            kept.append((meta, image))
        yield meta, image, outputs
    whole = [(meta, image) for meta, image in kept if meta.kind == DATA and meta.scale == plan.scales[0]]
    crowded = [image for _, image in sorted(whole, key=lambda one: -counts[one[0].id])]
    with_any = [one for one in whole if counts[one[0].id]]
    _, sparse = min(with_any or whole, key=lambda one: counts[one[0].id])
    if TIES in plan.kinds:
        meta, image = repeated_image(sparse)
        yield meta, image, run([image], [meta.output_size])[0]
    if contract.row_names and MOST in plan.kinds:
        yield from _most(crowded, contract, plan, run)
    if contract.row_names and probe is not None and {ONE, NEAR} & {*plan.kinds}:
        emptiest = min((FLAT, BLACK, WHITE, NOISE), key=lambda kind: counts.get(id_of(kind), 0))
        blank = blank_image(emptiest, crowded[0].shape[1:], contract)
        search = ThresholdSearch(Blend(blank, crowded[0]), probe)
        for meta, image in _searched(search, contract, plan, has_one=1 in counts.values()):
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
) -> Iterator[SampleOutputs]:
    """Yield the samples of ``inputs`` with a progress bar; outputs of an interrupted run are not repeated.

    Args:
        records: see ``inputs``.
        contract: see ``inputs``.
        plan: see ``inputs``.
        run: see ``inputs``.
        probe: see ``inputs``.
        progress: outputs of an interrupted run. The search is deterministic, so it needs the same images.
    """
    progress = progress or Progress()
    with progress_bar(total=plan.most_runs(len(records), contract), desc="reference", unit="run") as bar:

        def run_images(images: Sequence[np.ndarray], output_sizes: Sequence[Size]) -> list[Outputs]:
            bar.update()
            call = cache(partial(run, images, output_sizes))
            name = f"run {_digest(images)} {list(output_sizes)}"
            return [
                progress.outputs_once(f"{name} {index}", partial(_output_of, call, index))
                for index in range(len(images))
            ]

        def scores(image: np.ndarray) -> np.ndarray:
            bar.update()
            assert probe is not None
            name, measure = f"scores {_digest([image])}", partial(probe, image)
            values: np.ndarray = progress.outputs_once(name, lambda: {"scores": measure()})["scores"]
            return values

        yield from inputs(records, contract, plan, run_images, scores if probe else None)


def _output_of(call: Callable[[], list[Outputs]], index: int) -> Outputs:
    return call()[index]


def _digest(images: Sequence[np.ndarray]) -> str:
    """Digest images (3, H, W) uint8 in their order."""
    return sha256_json([[image.shape, hashlib.sha256(image.tobytes()).hexdigest()] for image in images])


def _most(crowded: list[np.ndarray], contract: Contract, plan: Plan, run: Run) -> Iterator[SampleOutputs]:
    """Yield the mosaic with the most detections, made of the most crowded images."""
    best: SampleOutputs | None = None
    most = -1
    _, height, width = crowded[0].shape
    for side in grids(plan.mosaics):
        size = fitting((side * height, side * width), plan.mosaic_area * height * width)
        image = mosaic(crowded, side, side, size)
        (outputs,) = run([image], [size])
        if count_rows(outputs) > most:
            most = count_rows(outputs)
            note = f"{most} detections, at most {contract.max_detections}, in {side} x {side} images"
            best = replace(meta_of(MOST, size), note=note), image, outputs
        if most >= contract.max_detections >= 0:
            break
    if best is not None:
        yield best


def _searched(
    search: ThresholdSearch, contract: Contract, plan: Plan, *, has_one: bool
) -> Iterator[InputImage]:
    """Yield images with one detection and with scores near the thresholds, if the search finds any."""
    size = search.blend.first.shape[1:]
    if ONE in plan.kinds and not has_one:
        fraction = search.find_one(contract.score_threshold, runs=plan.one_runs)
        if fraction is not None:
            yield meta_of(ONE, size), search.blend(fraction)
    for threshold in score_thresholds(contract) if NEAR in plan.kinds else ():
        for name, near in _near(search, threshold, plan).items():
            side = "above" if near.distance > 0 else "below"
            meta = replace(
                meta_of(NEAR, size),
                id=f"near-{threshold:g}-{name}",
                note=f"a score {abs(near.distance):.2g} {side} the threshold {threshold:g}",
                threshold=threshold,
                threshold_distance=near.distance,
            )
            yield meta, search.blend(near.fraction)


def _near(search: ThresholdSearch, threshold: float, plan: Plan) -> dict[str, NearScore]:
    """Find the nearest scores on either side of a threshold, and scores ``plan.offset`` away from it."""
    left = plan.threshold_runs
    left -= search.approach(threshold, runs=left - left // 4, distance=plan.threshold_distance)
    found = {"above": search.nearest(threshold, 1), "below": search.nearest(threshold, -1)}
    for name, sign in (("higher", 1), ("lower", -1)):
        level = threshold + sign * plan.offset
        left -= search.approach(level, runs=left, distance=plan.offset / 4)
        nearest = [near for side in (1, -1) if (near := search.nearest(level, side)) is not None]
        best = min(nearest, key=lambda near: abs(near.distance), default=None)
        if best is not None and abs(best.distance) <= plan.offset / 2:
            found[name] = NearScore(best.fraction, best.distance + sign * plan.offset)
    return {name: near for name, near in found.items() if near is not None}


def _batches(candidates: Sequence[InputImage], run: Run) -> Iterator[SampleOutputs]:
    """Yield two batches of images of different sizes: of the data set, and extreme ones with a blank one."""
    of_data = [one for one in candidates if one[0].kind == DATA]
    extreme = [one for one in candidates if one[0].kind in (WIDE, TALL, FLAT)]
    for number, batch in enumerate((_of_different_sizes(of_data), extreme), start=1):
        batch_outputs = run([image for _, image in batch], [meta.output_size for meta, _ in batch])
        for index, ((meta, image), outputs) in enumerate(zip(batch, batch_outputs, strict=True)):
            note = f"{meta.id} in a batch of {len(batch)}"
            id = f"{BATCH}-{number}-{index}"
            yield replace(meta, id=id, kind=BATCH, note=note, batch=str(number)), image, outputs


def _of_different_sizes(candidates: Sequence[InputImage]) -> list[InputImage]:
    """Choose up to ``BATCH_SIZE`` images of different files and sizes."""
    chosen: list[InputImage] = []
    for meta, image in (*candidates, *candidates):
        sizes = {one.image_size for one, _ in chosen}
        ids = {one.image_id for one, _ in chosen}
        if len(chosen) < BATCH_SIZE and meta.image_size not in sizes and meta.image_id not in ids:
            chosen.append((meta, image))
    return chosen
