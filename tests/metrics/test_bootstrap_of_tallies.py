"""Metrics of any selection of images, and confidence intervals of differences."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detexport.data.coco import CocoDataset, CocoRecord, load_coco, read_image, read_segment_map
from detexport.metrics.average_precision import coco_ap
from detexport.metrics.bootstrap import paired_difference
from detexport.metrics.evaluate import HEADLINES, Evaluation, evaluate_predictions
from detexport.metrics.tallies import Matches, Recalls, pack_tallies, unpack_tallies
from detexport.system.files import read_json
from synthetic_shapes import synthetic_shapes

IMAGES = 8
KINDS = {
    "boxes and masks": ("bbox/AP", "segm/AP"),
    "keypoints": ("bbox/AP", "keypoints/AP"),
    "proposals": ("proposals/AR100",),
    "panoptic": ("panoptic/PQ",),
    "pixels": ("sem_seg/mIoU",),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "shapes"
    synthetic_shapes(train_images=0, val_images=IMAGES).write(path)
    return path


@pytest.fixture(scope="module")
def datasets(folder: Path) -> dict[str, CocoDataset]:
    return {
        kind: load_coco(folder, "val", kind="keypoints" if kind == "keypoints" else "instances")
        for kind in KINDS
    }


def noisy_predictions(
    dataset: CocoDataset, kind: str, *, noise_px: float = 6.0, seed: int = 0
) -> Iterator[tuple[CocoRecord, dict[str, Any]]]:
    """Yield noisy annotations as predictions: moved, some left out, some doubled, with random scores."""
    rng = np.random.default_rng(seed)
    panoptic = {e["image_id"]: e for e in read_json(dataset.panoptic_file)["annotations"]}
    for record in dataset.images:
        if kind == "pixels":
            labels = read_image(record.sem_seg_file_name)[0].astype(np.int64) % 8
            labels[rng.random(labels.shape) < 0.01 * noise_px] = 3
            yield record, {"sem_seg": (np.arange(8)[:, None, None] == labels).astype(np.float32)}
            continue
        if kind == "panoptic":
            entry = panoptic[record.image_id]
            names = dataset.panoptic_file.parent.parent / dataset.panoptic_file.stem / entry["file_name"]
            segment_map = read_segment_map(names)
            segment_map = np.roll(segment_map, rng.integers(0, 2 + int(noise_px)), axis=1)
            infos = [s for s in entry["segments_info"] if s["category_id"] in dataset.category_ids]
            segments = [
                {"id": s["id"], "isthing": True, "category_id": dataset.category_ids.index(s["category_id"])}
                for s in infos
            ]
            kept = np.where(np.isin(segment_map, [s["id"] for s in segments]), segment_map, 0)
            yield record, {"panoptic_seg": kept, "segments_info": segments}
            continue
        chosen = [a for a in record.annotations for _ in range(2) if rng.random() < 0.7]
        boxes = np.array([a["bbox"] for a in chosen], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes += rng.normal(0, noise_px, boxes.shape)
        # Tied with scores of other images, not within the image.
        scores = np.sort(rng.permutation(40)[: len(chosen)] / 40)[::-1].astype(np.float32)
        if kind == "proposals":
            yield record, {"proposal_boxes": boxes, "objectness_logits": scores}
            continue
        outputs = {
            "pred_boxes": boxes,
            "scores": scores,
            "pred_classes": np.array([a["category_id"] for a in chosen], np.int64),
        }
        if kind == "keypoints":
            points = np.array([a["keypoints"] for a in chosen], np.float32).reshape(len(chosen), -1, 3)
            outputs["pred_keypoints"] = points + rng.normal(0, noise_px, points.shape).astype(np.float32)
        else:
            outputs["pred_masks"] = as_masks(boxes, record)
        yield record, outputs


def as_masks(boxes: np.ndarray, record: CocoRecord) -> np.ndarray:
    masks = np.zeros((len(boxes), record.height, record.width), bool)
    for mask, (x0, y0, x1, y1) in zip(masks, np.maximum(boxes, 0).astype(int), strict=True):
        mask[y0:y1, x0:x1] = True
    return masks


def evaluated(dataset: CocoDataset, kind: str, **options: Any) -> Evaluation:
    return evaluate_predictions(noisy_predictions(dataset, kind, **options), dataset, sigmas_of(dataset))


def sigmas_of(dataset: CocoDataset) -> tuple[float, ...]:
    numbers = {len(a["keypoints"]) // 3 for r in dataset.images for a in r.annotations if "keypoints" in a}
    return (0.2,) * numbers.pop() if numbers else ()


@pytest.mark.parametrize("kind", KINDS)
def test_each_image_once_is_the_metric(datasets: dict[str, CocoDataset], kind: str) -> None:
    result = evaluated(datasets[kind], kind)
    assert tuple(result.tallies) == KINDS[kind]
    for name, tallies in result.tallies.items():
        assert name in HEADLINES
        assert 0.02 < result.metrics[name] < 0.98
        assert tallies.values(np.ones((1, IMAGES))) == pytest.approx([result.metrics[name]], abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_selection_of_images_equals_a_smaller_data_set(datasets: dict[str, CocoDataset], kind: str) -> None:
    dataset = datasets[kind]
    result = evaluated(dataset, kind)
    weights = np.array([[1, 0, 1, 1, 0, 0, 1, 0], [0, 0, 0, 0, 0, 1, 0, 0]])
    for row, tallies in ((row, one) for row in weights for one in result.tallies.items()):
        ids = {record.image_id for record, weight in zip(dataset.images, row, strict=True) if weight}
        some = [one for one in noisy_predictions(dataset, kind) if one[0].image_id in ids]
        smaller = evaluate_predictions(some, dataset, sigmas_of(dataset))
        assert tallies[1].values(row[None]) == pytest.approx([smaller.metrics[tallies[0]]], abs=1e-9)


def test_weight_two_equals_two_copies_of_an_image(datasets: dict[str, CocoDataset], tmp_path: Path) -> None:
    dataset = datasets["boxes and masks"]
    weights = np.array([2, 0, 1, 3, 0, 1, 1, 0])
    copies = [(i, c) for i, weight in enumerate(weights) for c in range(weight)]
    truth = read_json(dataset.annotation_file)
    predictions = [(record, outputs) for record, outputs in noisy_predictions(dataset, "boxes and masks")]
    # Ties are ranked in the order of the images, so the copies must be neighbours in both.
    images, annotations, repeated = [], [], []
    for image_id, (index, _) in enumerate(copies, start=1):
        record, outputs = predictions[index]
        images.append({**next(i for i in truth["images"] if i["id"] == record.image_id), "id": image_id})
        own = [a for a in truth["annotations"] if a["image_id"] == record.image_id]
        annotations += [
            {**a, "image_id": image_id, "id": len(annotations) + 1 + k} for k, a in enumerate(own)
        ]
        repeated.append((image_id, outputs))
    path = tmp_path / "instances.json"
    path.write_text(json.dumps({**truth, "images": images, "annotations": annotations}))
    metrics = coco_ap(path, repeated, dataset.category_ids)
    for name, tallies in evaluated(dataset, "boxes and masks").tallies.items():
        assert tallies.values(weights[None]) == pytest.approx([metrics[name]], abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_tallies_are_stored_as_arrays(datasets: dict[str, CocoDataset], kind: str, tmp_path: Path) -> None:
    tallies = evaluated(datasets[kind], kind).tallies
    np.savez_compressed(tmp_path / "t.npz", allow_pickle=False, **pack_tallies(tallies))
    with np.load(tmp_path / "t.npz") as arrays:
        read = unpack_tallies(dict(arrays))
    weights = np.eye(IMAGES)
    assert read.keys() == tallies.keys()
    for name, one in tallies.items():
        np.testing.assert_array_equal(read[name].values(weights), one.values(weights))


def test_equal_sides_have_no_difference(datasets: dict[str, CocoDataset]) -> None:
    dataset = datasets["boxes and masks"]
    for name in ("bbox/AP", "segm/AP"):
        first, second = (evaluated(dataset, "boxes and masks").tallies[name] for _ in range(2))
        paired = paired_difference(first, second)
        assert (paired.value, paired.interval) == (0, (0, 0))
        assert set(paired.images[~np.isnan(paired.images)]) == {0}


def test_the_interval_of_a_worse_side_excludes_zero(datasets: dict[str, CocoDataset]) -> None:
    dataset = datasets["boxes and masks"]
    better = evaluated(dataset, "boxes and masks", noise_px=1)
    worse = evaluated(dataset, "boxes and masks", noise_px=8)
    paired = paired_difference(better.tallies["bbox/AP"], worse.tallies["bbox/AP"])
    assert paired.value == pytest.approx(worse.metrics["bbox/AP"] - better.metrics["bbox/AP"])
    low, high = paired.interval
    assert low < paired.value < high < 0
    again = paired_difference(better.tallies["bbox/AP"], worse.tallies["bbox/AP"])
    assert again.interval == paired.interval, "seeded"
    assert np.nanmin(paired.images) < 0


def test_the_interval_of_a_mean_agrees_with_theory() -> None:
    """With one object per image the recall is a mean over images, whose interval is known."""
    number = 400
    hits = np.random.default_rng(1).random(number) < 0.3

    def side(correct: np.ndarray) -> Recalls:
        return Recalls(
            image=np.arange(number),
            category=np.zeros(number, np.int64),
            correct=correct[None],
            ignored=np.zeros((1, number), bool),
            objects=np.ones((1, number), np.int64),
            score=np.linspace(1, 0, number),
        )

    none, some = side(np.zeros(number, bool)), side(hits)
    paired = paired_difference(none, some)
    error = np.sqrt(hits.mean() * (1 - hits.mean()) / number)
    assert paired.value == pytest.approx(hits.mean())
    assert paired.interval == pytest.approx(
        (hits.mean() - 1.96 * error, hits.mean() + 1.96 * error), abs=0.006
    )


def no_detections(number: int, objects: int) -> Matches:
    return Matches(
        image=np.zeros(0, np.int32),
        category=np.zeros(0, np.int32),
        correct=np.zeros((10, 0), bool),
        ignored=np.zeros((10, 0), bool),
        objects=np.full((2, number), objects),
        score=np.zeros(0),
    )


def test_no_detections_have_value_zero() -> None:
    paired = paired_difference(no_detections(3, 2), no_detections(3, 2))
    assert (paired.value, paired.interval, paired.images.tolist()) == (0, (0, 0), [0, 0, 0])


def test_no_annotations_leave_the_metric_undefined(datasets: dict[str, CocoDataset]) -> None:
    paired = paired_difference(no_detections(3, 0), no_detections(3, 0))
    assert np.isnan([paired.value, *paired.interval, *paired.images]).all()


def test_false_positives_on_an_image_without_annotations_count() -> None:
    """AP is undefined on that image alone, but not on all images."""
    first = Matches(
        image=np.array([0]),
        category=np.array([0]),
        correct=np.ones((10, 1), bool),
        ignored=np.zeros((10, 1), bool),
        objects=np.array([[1, 0]]),
        score=np.array([0.9]),
    )
    second = replace(
        first,
        image=np.array([1, 0]),
        category=np.array([0, 0]),
        correct=np.array([[False, True]] * 10),
        ignored=np.zeros((10, 2), bool),
        score=np.array([0.9, 0.8]),
    )
    paired = paired_difference(first, second)
    assert paired.value == pytest.approx(-0.5)
    assert paired.images[0] == 0
    assert np.isnan(paired.images[1])
    assert paired.interval == pytest.approx((-0.5, 0)), "either both images, or the annotated one alone"


def test_ignored_detections_do_not_count() -> None:
    rows = np.array([[True, False, False, True]] * 10)
    crowd = Matches(
        image=np.array([0, 0, 1, 1]),
        category=np.zeros(4, np.int64),
        correct=rows,
        ignored=np.array([[False, True, False, False]] * 10),
        objects=np.array([[1, 1]]),
        score=np.array([0.9, 0.8, 0.7, 0.6]),
    )
    kept = [0, 2, 3]
    of_rows = (crowd.image[kept], crowd.category[kept], rows[:, kept], crowd.ignored[:, kept])
    without = Matches(*of_rows, crowd.objects, crowd.score[kept])
    weights = np.array([[1, 1], [3, 1], [0, 2]])
    np.testing.assert_array_equal(crowd.values(weights), without.values(weights))


def ranked(*rows: tuple[float, bool]) -> Matches:
    """Return detections (score, correct) of one class, each on its own image."""
    count = len(rows)
    return Matches(
        image=np.arange(count),
        category=np.zeros(count, np.int64),
        correct=np.array([[correct for _, correct in rows]] * 10),
        ignored=np.zeros((10, count), bool),
        objects=np.ones((1, count), np.int64),
        score=np.array([score for score, _ in rows]),
    )


def test_extremes_are_the_values_over_orders_of_equal_scores() -> None:
    hit_first, miss_first = ranked((0.9, True), (0.9, False)), ranked((0.9, False), (0.9, True))
    both = {side.values(np.ones((1, 2)))[0] for side in (hit_first, miss_first)}
    for side in (hit_first, miss_first):
        assert side.extremes(1e-4) == pytest.approx((min(both), max(both)))
    apart = ranked((0.9, False), (0.8, True))
    (value,) = apart.values(np.ones((1, 2)))
    assert apart.extremes(1e-4) == pytest.approx((value, value))
    assert np.isnan(no_detections(3, 0).extremes(1e-4)).all()


def test_extremes_enclose_the_value(datasets: dict[str, CocoDataset]) -> None:
    tallies = evaluated(datasets["boxes and masks"], "boxes and masks").tallies["bbox/AP"]
    (value,) = tallies.values(np.ones((1, IMAGES)))
    assert tallies.extremes(0.0) == pytest.approx((value, value))
    low, high = tallies.extremes(0.2)
    assert low < value < high


def test_one_image(datasets: dict[str, CocoDataset]) -> None:
    dataset = replace(datasets["boxes and masks"], images=datasets["boxes and masks"].images[:1])
    sides = [evaluated(dataset, "boxes and masks", seed=seed).tallies["bbox/AP"] for seed in (0, 3)]
    paired = paired_difference(*sides)
    assert paired.interval == (paired.value, paired.value)
    assert paired.images.tolist() == [paired.value]


@pytest.mark.parametrize("numbers", [(2, 3), (0, 0)])
def test_sides_with_other_images_are_refused(numbers: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="images; expected the same ones"):
        paired_difference(*(no_detections(number, 1) for number in numbers))


@pytest.mark.parametrize("kind", ["boxes and masks", "keypoints"])
def test_classes_and_curves_agree_with_cocos_metrics(datasets: dict[str, CocoDataset], kind: str) -> None:
    dataset = datasets[kind]
    evaluation = evaluated(dataset, kind)
    for name in KINDS[kind]:
        matches = evaluation.tallies[name]
        assert isinstance(matches, Matches)
        assert np.nanmean(matches.by_class()) == pytest.approx(evaluation.metrics[name], abs=1e-12)
        for threshold, metric in ((0, f"{name}50"), (5, f"{name}75")):
            curve = matches.precision_at_recalls(threshold)
            assert curve.mean() == pytest.approx(evaluation.metrics[metric], abs=1e-12)
            assert (np.diff(curve) <= 0).all()


def test_a_class_without_objects_has_no_precision() -> None:
    empty = Matches(
        image=np.zeros(0, np.int64),
        category=np.zeros(0, np.int64),
        correct=np.zeros((10, 0), bool),
        ignored=np.zeros((10, 0), bool),
        objects=np.array([[0], [2]]),
        score=np.zeros(0),
    )
    np.testing.assert_array_equal(empty.by_class(), [np.nan, 0.0])
    np.testing.assert_array_equal(empty.precision_at_recalls(0), np.zeros(101))
    assert np.isnan(replace(empty, objects=np.zeros((2, 1), int)).precision_at_recalls(0)).all()
