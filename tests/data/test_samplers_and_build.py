"""Loaders and samplers: content and order of batches, and the number of images in memory."""

import itertools
import pickle
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coco_files import SIZES, annotation, write_coco
from torch.utils.data import IterableDataset

from detexport.config import get_cfg
from detexport.config.cfg import CfgNode
from detexport.data import (
    DatasetCatalog,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
    register_coco_instances,
)
from detexport.data.build import (
    AspectRatioGroupedDataset,
    DatasetFromList,
    MapDataset,
    ToIterableDataset,
    build_batch_data_loader,
    load_proposals_into_dataset,
    print_instances_class_histogram,
)
from detexport.data.samplers import (
    InferenceSampler,
    RandomSubsetTrainingSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
)
from detexport.errors import CheckpointError, ConfigError, DataError
from detexport.modeling import build_model
from detexport.structures import BoxMode
from detexport.utils import comm
from detexport.utils.events import EventStorage

NAME = "loaders_pets"
CONFIG = Path(__file__).parents[2] / "conf/detectron2/mask_rcnn.yaml"


@pytest.fixture
def cfg(tmp_path: Path) -> Iterator[CfgNode]:
    further = [annotation(10, 4), annotation(11, 3, keypoints=[0] * 9)]
    register_coco_instances(NAME, {}, write_coco(tmp_path, annotations=further), tmp_path)
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (NAME,)
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (32, 48), 32
    cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.NUM_WORKERS, cfg.SEED = 2, 0, 5
    yield cfg
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def first(loader: Any, count: int) -> list[list[dict[str, Any]]]:
    return list(itertools.islice(iter(loader), count))


def flat(batches: list[list[Any]]) -> list[Any]:
    return list(itertools.chain.from_iterable(batches))


def ids(batches: list[list[dict[str, Any]]]) -> list[list[int]]:
    return [[example["image_id"] for example in batch] for batch in batches]


def test_batches_have_one_orientation(cfg: CfgNode) -> None:
    batches = first(build_detection_train_loader(cfg), 12)
    for batch in batches:
        assert len(batch) == 2
        assert len({example["width"] > example["height"] for example in batch}) == 1
        assert all(example["instances"].has("gt_boxes") for example in batch)
    assert set(flat(ids(batches))) == {1, 2, 3, 4}


def test_at_most_one_batch_of_each_orientation_is_kept() -> None:
    taken = []
    examples = (
        {"width": 1 + index % 2, "height": 1, "taken": taken.append(index)} for index in itertools.count()
    )
    for count, batch in enumerate(itertools.islice(AspectRatioGroupedDataset(examples, 3), 20), start=1):
        assert len(batch) == 3
        assert len(taken) - 3 * count <= 2 * 2


def test_inputs_without_a_size_are_grouped_by_their_image() -> None:
    examples = [{"image": torch.zeros(3, *size)} for size in ((4, 8), (8, 4), (6, 9), (5, 5))]
    batches = list(AspectRatioGroupedDataset(examples, 2))
    assert [[tuple(one["image"].shape[1:]) for one in batch] for batch in batches] == [
        [(4, 8), (6, 9)],
        [(8, 4), (5, 5)],
    ]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_seed_gives_the_same_batches(cfg: CfgNode, workers: int) -> None:
    runs = []
    for _ in range(2):
        np.random.seed(0)
        runs.append(first(build_detection_train_loader(cfg, num_workers=workers), 6))
        torch.rand(7)
    assert ids(runs[0]) == ids(runs[1])
    for one, other in zip(flat(runs[0]), flat(runs[1]), strict=True):
        assert torch.equal(one["image"], other["image"])
        assert torch.equal(one["instances"].gt_boxes.tensor, other["instances"].gt_boxes.tensor)
    # The sizes are drawn, so the seed covers the augmentations.
    assert len({min(example["image"].shape[1:]) for example in flat(runs[0])}) == 2
    others = first(build_detection_train_loader(cfg, num_workers=workers, seed=6), 6)
    assert ids(others) != ids(runs[0])


def test_keywords_override_the_configuration(cfg: CfgNode) -> None:
    loader = build_detection_train_loader(
        cfg,
        mapper=lambda record: record["image_id"],
        sampler=InferenceSampler(4),
        aspect_ratio_grouping=False,
        total_batch_size=3,
    )
    assert list(loader) == [[1, 2, 3], [4]]
    cfg.DATALOADER.SAMPLER_TRAIN = "RandomSubsetTrainingSampler"
    with pytest.raises(ConfigError, match=r"DATALOADER\.SAMPLER_TRAIN: RandomSubset"):
        build_detection_train_loader(cfg)


def test_without_a_configuration() -> None:
    records = [{"image_id": index, "width": 2, "height": 1} for index in range(5)]
    loader = build_detection_train_loader(records, mapper=dict, total_batch_size=2, seed=1)
    assert sorted(flat(ids(first(loader, 5)))) == sorted([0, 1, 2, 3, 4] * 2)
    counts = build_detection_train_loader(
        dataset=records, mapper=dict, total_batch_size=2, seed=1, collate_fn=len
    )
    assert first(counts, 2) == [2, 2]
    with pytest.raises(TypeError, match="needs mapper"):
        build_detection_train_loader(records, total_batch_size=2)
    with pytest.raises(TypeError, match="needs dataset"):
        build_detection_test_loader(mapper=dict)

    class Stream(IterableDataset):
        def __iter__(self) -> Iterator[int]:
            yield 1

    with pytest.raises(TypeError, match="IterableDataset"):
        build_detection_train_loader(Stream(), mapper=dict, total_batch_size=2)


def test_inference_reads_each_image_once_in_order(cfg: CfgNode) -> None:
    for loader in (build_detection_test_loader(cfg, NAME), build_detection_test_loader(cfg)):
        batches = list(loader)
        assert ids(batches) == [[1], [2], [3], [4]]
        assert [(b[0]["height"], b[0]["width"]) for b in batches] == SIZES
        assert all("instances" not in batch[0] for batch in batches)
    by_three = build_detection_test_loader([{"image_id": i} for i in range(4)], mapper=dict, batch_size=3)
    assert ids(list(by_three)) == [[0, 1, 2], [3]]


def test_batches_are_inputs_of_training_and_inference(cfg: CfgNode) -> None:
    """From a registered data set to losses and detections, as documented."""
    further = ["MODEL.RESNETS.DEPTH", 18, "MODEL.ROI_HEADS.NUM_CLASSES", 2, "DATASETS.TRAIN", (NAME,)]
    cfg.merge_from_file(CONFIG)
    cfg.merge_from_list([*further, "DATASETS.TEST", (NAME,), "INPUT.MIN_SIZE_TRAIN", (64,)])
    torch.manual_seed(0)
    model = build_model(cfg)
    (batch,) = first(build_detection_train_loader(cfg), 1)
    with EventStorage() as storage:
        losses = model(batch)
    assert {"loss_mask", "loss_cls", "loss_rpn_cls"} <= set(losses)
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert storage.latest()["rpn/num_pos_anchors"][0] > 0
    model.eval()
    with torch.no_grad():
        for (example,) in build_detection_test_loader(cfg, NAME):
            (output,) = model([example])
            assert output["instances"].image_size == (example["height"], example["width"])


def test_images_without_usable_annotations_are_left_out(cfg: CfgNode) -> None:
    def kept(**options: Any) -> list[int]:
        return [record["image_id"] for record in get_detection_dataset_dicts(NAME, **options)]

    assert kept() == kept(filter_empty=False) == [1, 2, 3, 4]
    assert kept(min_keypoints=2) == [1, 2, 3, 4]
    assert kept(min_keypoints=3) == [1]
    with pytest.raises(DataError, match="no image is left"):
        kept(min_keypoints=100)
    with pytest.raises(DataError, match="no data set is named"):
        get_detection_dataset_dicts([])


def test_images_with_only_crowds_are_left_out(tmp_path: Path) -> None:
    register_coco_instances("loaders_crowds", {}, write_coco(tmp_path), tmp_path)
    try:
        assert [r["image_id"] for r in get_detection_dataset_dicts(["loaders_crowds"])] == [1, 2]
        assert len(get_detection_dataset_dicts(["loaders_crowds"], filter_empty=False)) == 4
    finally:
        DatasetCatalog.remove("loaders_crowds")
        MetadataCatalog.remove("loaders_crowds")


def test_a_mapper_may_return_none() -> None:
    mapped = MapDataset(list(range(10)), lambda value: value if value % 2 else None)
    assert len(mapped) == 10
    assert mapped[3] == 3
    assert mapped[4] == mapped[4]
    assert mapped[4] % 2 == 1
    with pytest.raises(DataError, match="None for each record"):
        MapDataset([1, 2], lambda _: None)[0]


def write_proposals(path: Path, **changes: Any) -> Path:
    boxes = np.array([[0.0, 0, 30, 20], [5, 5, 20, 20]], np.float32)
    value = {
        "ids": [4, 3, 2, 1],
        "boxes": [boxes] * 3 + [boxes + 1],
        "objectness_logits": [np.array([1.0, 2.0], np.float32)] * 4,
    }
    path.write_bytes(pickle.dumps({**value, **changes}))
    return path


def test_proposals_of_a_file(cfg: CfgNode, tmp_path: Path) -> None:
    path = write_proposals(tmp_path / "proposals.pkl")
    records = load_proposals_into_dataset(DatasetCatalog.get(NAME), path)
    assert records[0]["proposal_boxes"].tolist() == [[6, 6, 21, 21], [1, 1, 31, 21]]
    assert records[1]["proposal_objectness_logits"].tolist() == [2, 1]
    assert records[1]["proposal_bbox_mode"] == BoxMode.XYXY_ABS
    cfg.MODEL.LOAD_PROPOSALS = True
    cfg.DATASETS.PROPOSAL_FILES_TEST = cfg.DATASETS.PROPOSAL_FILES_TRAIN = (str(path),)
    for batch in (
        next(iter(build_detection_test_loader(cfg, NAME))),
        next(iter(build_detection_train_loader(cfg))),
    ):
        assert len(batch[0]["proposals"]) == 2
    cfg.DATASETS.PROPOSAL_FILES_TEST = ()
    with pytest.raises(DataError, match="0 files for 1 data sets"):
        build_detection_test_loader(cfg, NAME)


class Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("it ran",)


def test_invalid_proposals_are_refused(
    cfg: CfgNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = DatasetCatalog.get(NAME)
    with pytest.raises(DataError, match="no proposals for the image 1"):
        load_proposals_into_dataset(records, write_proposals(tmp_path / "a.pkl", ids=[9, 8, 7, 6]))
    (tmp_path / "b.pkl").write_bytes(pickle.dumps({"ids": [1]}))
    with pytest.raises(DataError, match="no boxes, objectness_logits"):
        load_proposals_into_dataset(records, tmp_path / "b.pkl")
    with pytest.raises(CheckpointError):
        load_proposals_into_dataset(records, write_proposals(tmp_path / "c.pkl", ids=Runs()))
    assert capsys.readouterr().out == ""


def test_each_pass_of_training_contains_all_images() -> None:
    order = list(itertools.islice(TrainingSampler(7, seed=3), 21))
    assert all(sorted(order[start : start + 7]) == list(range(7)) for start in (0, 7, 14))
    assert order[:7] != order[7:14]
    assert order == list(itertools.islice(TrainingSampler(7, seed=3), 21))
    assert list(itertools.islice(TrainingSampler(3, shuffle=False), 5)) == [0, 1, 2, 0, 1]
    with pytest.raises(DataError, match="no image to train on"):
        TrainingSampler(0)


def test_images_with_rare_categories_are_repeated() -> None:
    records = [{"annotations": [{"category_id": 0}]}] * 99 + [{"annotations": [{"category_id": 1}]}]
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(records, 0.09)
    assert factors[:99].tolist() == [1] * 99
    assert factors[99] == pytest.approx(3)
    linear = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(records, 0.09, sqrt=False)
    assert linear[99] == pytest.approx(9)
    sampler = RepeatFactorTrainingSampler(torch.tensor([1.0, 2.25]), seed=0)
    counts = Counter(itertools.islice(sampler, 32500))
    assert counts[1] / counts[0] == pytest.approx(2.25, rel=0.02)


@pytest.mark.parametrize(
    ("copied", "serialized"), [(True, True), (True, False), (False, True), (False, False)]
)
def test_a_list_as_a_data_set(copied: bool, serialized: bool) -> None:
    entries = [{"image_id": index, "values": [index]} for index in range(3)]
    dataset = DatasetFromList(entries, copy=copied, serialize=serialized)
    assert len(dataset) == 3
    dataset[1]["values"].append(9)
    assert dataset[1]["values"] == ([1] if copied or serialized else [1, 9])


def test_a_sequence_is_shared_by_the_workers() -> None:
    dataset = ToIterableDataset(list(range(10, 20)), range(10), shard_chunk_size=2)
    assert list(dataset) == list(range(10, 20))
    loader = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=2)
    assert sorted(loader) == list(range(10, 20))


def test_batches_of_a_mapped_data_set() -> None:
    images = [{"width": 2 + index % 2, "height": 3 - index % 2, "id": index} for index in range(7)]
    loader = build_batch_data_loader(images, InferenceSampler(7), 2)
    assert [[one["id"] for one in batch] for batch in loader] == [[0, 1], [2, 3], [4, 5]]
    assert len(list(build_batch_data_loader(images, InferenceSampler(7), 2, drop_last=False))) == 4
    grouped = build_batch_data_loader(images, InferenceSampler(7), 2, aspect_ratio_grouping=True)
    assert [[one["id"] for one in batch] for batch in grouped] == [[0, 2], [1, 3], [4, 6]]
    ids = build_batch_data_loader(images, InferenceSampler(7), 2, collate_fn=lambda batch: batch[0]["id"])
    assert list(ids) == [0, 2, 4]
    with pytest.raises(ValueError, match="batch of 0"):
        build_batch_data_loader(images, InferenceSampler(7), 0)


def test_a_random_subset_is_the_same_in_each_pass() -> None:
    sampler = RandomSubsetTrainingSampler(10, 0.5, seed_shuffle=1, seed_subset=2)
    drawn = list(itertools.islice(sampler, 15))
    assert len({frozenset(drawn[start : start + 5]) for start in (0, 5, 10)}) == 1
    assert len(set(drawn)) == 5
    again = RandomSubsetTrainingSampler(10, 0.5, seed_shuffle=3, seed_subset=2)
    assert set(itertools.islice(again, 5)) == set(drawn)
    with pytest.raises(ValueError, match="at most 1"):
        RandomSubsetTrainingSampler(10, 1.5)


def test_the_classes_of_several_data_sets_must_agree(cfg: CfgNode) -> None:
    other = f"{NAME}_other"
    DatasetCatalog.register(other, lambda: [{"annotations": []}])
    MetadataCatalog.get(other).thing_classes = ["bird"]
    try:
        get_detection_dataset_dicts([NAME])
        with pytest.raises(DataError, match="do not have one thing_classes"):
            get_detection_dataset_dicts([NAME, other])
        assert get_detection_dataset_dicts([NAME, other], check_consistency=False)
    finally:
        DatasetCatalog.remove(other)
        MetadataCatalog.remove(other)


def test_the_histogram_counts_instances(caplog: pytest.LogCaptureFixture) -> None:
    annotations = [{"category_id": 1}, {"category_id": 1}, {"category_id": 0, "iscrowd": 1}]
    with caplog.at_level("INFO"):
        print_instances_class_histogram([{"annotations": annotations}], ["cat", "dog"])
    assert [line.split() for line in caplog.text.splitlines()[-3:]] == [
        ["cat", "0"],
        ["dog", "2"],
        ["total", "2"],
    ]


@pytest.mark.parametrize("size", [7, 1, 6])
def test_processes_share_the_images(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list(itertools.islice(TrainingSampler(size, seed=3), 30))
    factors = torch.linspace(1.0, 3.0, size)
    repeated = list(itertools.islice(RepeatFactorTrainingSampler(factors, seed=1), 30))
    parts, inferred = [], []
    monkeypatch.setattr(comm, "get_world_size", lambda: 3)
    for rank in range(3):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        assert list(itertools.islice(TrainingSampler(size, seed=3), 10)) == whole[rank::3]
        sampler = RepeatFactorTrainingSampler(factors, seed=1)
        assert list(itertools.islice(sampler, 10)) == repeated[rank::3]
        parts.append(InferenceSampler(size))
        inferred += list(parts[-1])
    assert inferred == list(range(size))
    assert sum(map(len, parts)) == size


def test_a_mapped_iterable_is_an_iterable() -> None:
    class Numbers(IterableDataset):
        def __iter__(self) -> Iterator[int]:
            return iter(range(5))

    mapped = MapDataset(Numbers(), even_or_none)
    assert isinstance(mapped, IterableDataset)
    assert list(pickle.loads(pickle.dumps(MapDataset([1, 2], even_or_none)))._dataset) == [1, 2]
    assert list(mapped) == [0, 2, 4]


def even_or_none(number: int) -> int | None:
    return None if number % 2 else number
