"""Data loaders: batches of mapped records of a data set."""

import logging
import pickle
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from detexport.checkpoint.plain_pickle import load_plain_pickle
from detexport.data.catalog import DatasetCatalog, MetadataCatalog
from detexport.data.dataset_mapper import DatasetMapper
from detexport.data.detection_utils import check_metadata_consistency
from detexport.data.samplers import InferenceSampler, RepeatFactorTrainingSampler, TrainingSampler
from detexport.errors import ConfigError, DataError
from detexport.structures import BoxMode

logger = logging.getLogger(__name__)
Records = list[dict[str, Any]]
Mapper = Callable[[Any], Any]
Option = TypeVar("Option")
ATTEMPTS = 100
"""Maximum number of successive records for which a mapper may return None."""


def get_detection_dataset_dicts(
    names: str | Sequence[str],
    filter_empty: bool = True,
    min_keypoints: int = 0,
    proposal_files: Sequence[str] | None = None,
    check_consistency: bool = True,
) -> Records:
    """Return the records of one or several registered data sets.

    Args:
        names: of the data sets.
        filter_empty: whether to leave out images without annotations other than crowds.
        min_keypoints: minimum number of labelled keypoints of an image.
        proposal_files: proposals of each data set: see ``load_proposals_into_dataset``.
        check_consistency: whether to check that the data sets have the same classes.

    Raises:
        DataError: a name is not registered, no image is left, or the classes differ.
    """
    names = [names] if isinstance(names, str) else list(names)
    if not names:
        raise DataError("no data set is named", got=names, remedy="set DATASETS.TRAIN and DATASETS.TEST")
    parts = [DatasetCatalog.get(name) for name in names]
    if check_consistency and MetadataCatalog.get(names[0]).get("thing_classes") is not None:
        check_metadata_consistency("thing_classes", names)
    if proposal_files is not None:
        if len(proposal_files) != len(names):
            raise DataError(
                "each data set needs its own file of proposals",
                got=f"{len(proposal_files)} files for {len(names)} data sets",
                expected="one file per data set",
                remedy="set DATASETS.PROPOSAL_FILES_TRAIN and DATASETS.PROPOSAL_FILES_TEST",
            )
        parts = [load_proposals_into_dataset(*pair) for pair in zip(parts, proposal_files, strict=True)]
    records = [record for part in parts for record in part]
    kept = [
        record
        for record in records
        if "annotations" not in record or _learnable(record["annotations"], filter_empty, min_keypoints)
    ]
    if not kept:
        raise DataError(
            f"no image is left of {', '.join(names)}",
            got=f"{len(records)} images, none with enough annotations",
            expected="at least one",
            remedy="check the annotations, and DATALOADER.FILTER_EMPTY_ANNOTATIONS",
        )
    logger.info("%d of %d images of %s are kept", len(kept), len(records), ", ".join(names))
    return kept


def _learnable(annotations: Records, filter_empty: bool, min_keypoints: int) -> bool:
    if filter_empty and all(annotation.get("iscrowd", 0) for annotation in annotations):
        return False
    labelled = sum(
        visibility > 0
        for annotation in annotations
        for visibility in np.reshape(annotation.get("keypoints", ()), -1)[2::3]
    )
    return labelled >= min_keypoints


def load_proposals_into_dataset(dataset_dicts: Records, proposal_file: str | Path) -> Records:
    """Add proposals to records, by descending score.

    Args:
        dataset_dicts: records with ``image_id``; they are changed in place.
        proposal_file: a pickle of plain values and arrays: ``ids`` of the images, ``boxes`` (P, 4) and
            ``objectness_logits`` (P,) of each, and optionally ``bbox_mode``. No code in it is executed.

    Raises:
        CheckpointError: the file is missing, is broken, or requests the execution of code.
        DataError: an entry is missing, or an image has no proposals.
    """
    value = load_plain_pickle(Path(proposal_file))
    # Keys of older files.
    value = {{"indexes": "ids", "scores": "objectness_logits"}.get(k, k): v for k, v in value.items()}
    missing = [key for key in ("ids", "boxes", "objectness_logits") if key not in value]
    if missing:
        raise DataError(
            f"{proposal_file} holds no proposals",
            got=f"no {', '.join(missing)}",
            expected="ids, boxes, objectness_logits",
        )
    place = {str(image_id): index for index, image_id in enumerate(value["ids"])}
    for record in dataset_dicts:
        if str(record["image_id"]) not in place:
            raise DataError(
                f"{proposal_file} is of another data set",
                got=f"no proposals for the image {record['image_id']}",
                expected="proposals for each image",
                remedy="name the files of DATASETS.PROPOSAL_FILES_* in the order of the data sets",
            )
        index = place[str(record["image_id"])]
        logits = np.asarray(value["objectness_logits"][index])
        order = logits.argsort(kind="stable")[::-1]
        record["proposal_boxes"] = np.asarray(value["boxes"][index])[order]
        record["proposal_objectness_logits"] = logits[order]
        record["proposal_bbox_mode"] = BoxMode(value.get("bbox_mode", BoxMode.XYXY_ABS))
    return dataset_dicts


def print_instances_class_histogram(dataset_dicts: Records, class_names: Sequence[str]) -> None:
    """Log the number of instances of each class.

    Args:
        dataset_dicts: records with annotations; crowds are not counted.
        class_names: name of each class index.
    """
    counts = [0] * len(class_names)
    for record in dataset_dicts:
        for annotation in record["annotations"]:
            counts[annotation["category_id"]] += not annotation.get("iscrowd", 0)
    width = max(map(len, class_names), default=0)
    lines = [f"{name:<{width}} {count:>8}" for name, count in zip(class_names, counts, strict=True)]
    logger.info("instances of each class:\n%s", "\n".join([*lines, f"{'total':<{width}} {sum(counts):>8}"]))


class DatasetFromList(Dataset):
    """A list as a data set.

    Args:
        lst: its entries.
        copy: return a copy of an entry, so that changes to it do not reach the list.
        serialize: keep the entries as bytes: worker processes then share their memory.
    """

    def __init__(self, lst: Sequence[Any], copy: bool = True, serialize: bool = True) -> None:
        self._copy = copy and not serialize
        self._entries = [pickle.dumps(entry, protocol=-1) for entry in lst] if serialize else lst
        self._serialized = serialize

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Any:
        entry = self._entries[index]
        if self._serialized:
            return pickle.loads(entry)  # of this object's own making
        return deepcopy(entry) if self._copy else entry


class ToIterableDataset(IterableDataset):
    """A data set by index as a sequence in the order of a sampler.

    Args:
        dataset: by index.
        sampler: indices.
        shard_sampler: give each worker process its share of the indices, instead of all.
        shard_chunk_size: consecutive indices that a worker takes at once.
    """

    def __init__(
        self,
        dataset: Any,
        sampler: Iterable[int],
        shard_sampler: bool = True,
        shard_chunk_size: int = 1,
    ) -> None:
        self.dataset, self.sampler = dataset, sampler
        self.shard_sampler, self.shard_chunk_size = shard_sampler, shard_chunk_size

    def __iter__(self) -> Iterator[Any]:
        worker = torch.utils.data.get_worker_info() if self.shard_sampler else None
        for position, index in enumerate(self.sampler):
            if worker is None or position // self.shard_chunk_size % worker.num_workers == worker.id:
                yield self.dataset[index]

    def __len__(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type]


class MapDataset(Dataset):
    """A data set whose records are mapped; if the mapper returns None, another record is used.

    For an ``IterableDataset`` it is iterable, too, and skips records for which the mapper returns None.

    Args:
        dataset: map-style or iterable data set of records.
        map_func: maps a record to an input of a model, or to None.
    """

    def __new__(cls, dataset: Any, map_func: Mapper) -> "MapDataset":
        """Create a data set of the same style, map-style or iterable."""
        return super().__new__(_MapIterableDataset if isinstance(dataset, IterableDataset) else cls)

    def __getnewargs__(self) -> tuple[Any, Mapper]:
        return self._dataset, self._map_func

    def __init__(self, dataset: Any, map_func: Mapper) -> None:
        self._dataset = dataset
        self._map_func = map_func

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Any:
        others = random.Random(index)
        for _ in range(ATTEMPTS):
            mapped = self._map_func(self._dataset[index])
            if mapped is not None:
                return mapped
            index = others.randrange(len(self._dataset))
        raise DataError(
            "the mapper returned None for each record", got=f"{ATTEMPTS} times None", expected="an input"
        )


class _MapIterableDataset(MapDataset, IterableDataset):
    def __iter__(self) -> Iterator[Any]:
        mapped = map(self._map_func, self._dataset)
        return (one for one in mapped if one is not None)


class AspectRatioGroupedDataset:
    """Batches of images of one orientation, landscape or portrait, which need little padding.

    At most one incomplete batch of each orientation is kept in memory.

    Args:
        dataset: of inputs with ``width`` and ``height`` in px; else the size of ``image`` decides.
        batch_size: number of images per batch.
    """

    def __init__(self, dataset: Any, batch_size: int) -> None:
        self.dataset = dataset
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        waiting: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
        for example in self.dataset:
            height, width = example["image"].shape[-2:] if "width" not in example else (0, 0)
            wide = example.get("width", width) > example.get("height", height)
            waiting[wide].append(example)
            if len(waiting[wide]) == self.batch_size:
                yield waiting[wide]
                waiting[wide] = []


def trivial_batch_collator(batch: list[Any]) -> list[Any]:
    """Return the list of images as a batch."""
    return batch


def build_detection_train_loader(
    cfg: Any = None,
    *,
    dataset: Any = None,
    mapper: Mapper | None = None,
    sampler: Sampler[int] | None = None,
    total_batch_size: int | None = None,
    aspect_ratio_grouping: bool | None = None,
    num_workers: int | None = None,
    collate_fn: Callable[[list[Any]], Any] | None = None,
    seed: int | None = None,
) -> Any:
    """Build a loader of training batches without end.

    ``build_detection_train_loader(cfg)`` reads ``cfg.DATASETS``, ``cfg.DATALOADER`` and
    ``cfg.SOLVER.IMS_PER_BATCH``; keywords override them.
    ``build_detection_train_loader(dataset, mapper=mapper, total_batch_size=16)`` needs no configuration.

    The same seed gives the same batches for the same number of workers. Without workers the augmentations
    draw from the generator of this process: seed it, too, with ``numpy.random.seed``. A worker prefetches two
    images, and at most one incomplete batch of each orientation is kept in memory.

    Args:
        cfg: a configuration, or the data set.
        dataset: records, by default those of ``cfg.DATASETS.TRAIN``.
        mapper: maps a record to an input of a model, by default ``DatasetMapper(cfg)``.
        sampler: order of the records, by default ``cfg.DATALOADER.SAMPLER_TRAIN``.
        total_batch_size: number of images per batch.
        aspect_ratio_grouping: whether the images of a batch have one orientation.
        num_workers: number of processes that map; 0: map in this process.
        collate_fn: converts the list of a batch's inputs.
        seed: of the order and the augmentations, by default ``cfg.SEED``; None and negative ones draw one.

    Returns:
        an iterable of lists of inputs.

    Raises:
        ConfigError: the sampler is unknown.
        DataError: a data set is unknown, or has no image to train on.
        TypeError: an argument is missing that has no default without a configuration.
    """
    if not _is_cfg(cfg):
        cfg, dataset = None, dataset if cfg is None else cfg
    if cfg is not None:
        dataset = _train_records(cfg) if dataset is None else dataset
        mapper = mapper or DatasetMapper(cfg, is_train=True)
        seed = cfg.SEED if seed is None else seed
        total_batch_size = total_batch_size or cfg.SOLVER.IMS_PER_BATCH
        num_workers = cfg.DATALOADER.NUM_WORKERS if num_workers is None else num_workers
        if aspect_ratio_grouping is None:
            aspect_ratio_grouping = cfg.DATALOADER.ASPECT_RATIO_GROUPING
    seed = None if seed is None or seed < 0 else seed
    dataset, mapper = _records_by_index(dataset), _needed("mapper", mapper)
    batch_size = _needed("total_batch_size", total_batch_size)
    if sampler is None:
        sampler = (
            TrainingSampler(len(dataset), seed=seed) if cfg is None else _train_sampler(cfg, dataset, seed)
        )
    return build_batch_data_loader(
        MapDataset(dataset, mapper),
        sampler,
        batch_size,
        aspect_ratio_grouping=aspect_ratio_grouping is not False,
        num_workers=num_workers or 0,
        collate_fn=collate_fn,
        drop_last=False,
        generator=None if seed is None else torch.Generator().manual_seed(seed),
    )


def build_detection_test_loader(
    cfg: Any = None,
    dataset_name: str | Sequence[str] | None = None,
    *,
    dataset: Any = None,
    mapper: Mapper | None = None,
    sampler: Sampler[int] | None = None,
    batch_size: int = 1,
    num_workers: int | None = None,
    collate_fn: Callable[[list[Any]], Any] | None = None,
) -> DataLoader:
    """Build a loader of batches with each image once, in order.

    ``build_detection_test_loader(cfg, "my_val")``, or without a configuration
    ``build_detection_test_loader(dataset, mapper=mapper)``.

    Args:
        cfg: a configuration, or the data set.
        dataset_name: registered data sets, by default ``cfg.DATASETS.TEST``.
        dataset: records, in place of the registered ones.
        mapper: maps a record to an input of a model, by default ``DatasetMapper(cfg, is_train=False)``.
        sampler: order of the records.
        batch_size: number of images per batch.
        num_workers: number of processes that map; 0: map in this process.
        collate_fn: converts the list of a batch's inputs.

    Raises:
        DataError: a data set is unknown.
        TypeError: an argument is missing that has no default without a configuration.
    """
    if not _is_cfg(cfg):
        cfg, dataset = None, dataset if cfg is None else cfg
    if cfg is not None:
        mapper = mapper or DatasetMapper(cfg, is_train=False)
        num_workers = cfg.DATALOADER.NUM_WORKERS if num_workers is None else num_workers
        if dataset is None:
            dataset = _test_records(cfg, dataset_name)
    dataset, mapper = _records_by_index(dataset), _needed("mapper", mapper)
    return DataLoader(
        MapDataset(dataset, mapper),
        sampler=sampler or InferenceSampler(len(dataset)),
        batch_size=batch_size,
        num_workers=num_workers or 0,
        collate_fn=collate_fn or trivial_batch_collator,
    )


def build_batch_data_loader(
    dataset: Any,
    sampler: Sampler[int] | None,
    total_batch_size: int,
    *,
    aspect_ratio_grouping: bool = False,
    num_workers: int = 0,
    collate_fn: Callable[[list[Any]], Any] | None = None,
    drop_last: bool = True,
    **kwargs: Any,
) -> Any:
    """Build a loader of batches of a mapped data set.

    Args:
        dataset: by index, or a sequence, which has its own order.
        sampler: order of a data set by index.
        total_batch_size: number of images per batch, over all processes.
        aspect_ratio_grouping: whether the images of a batch have one orientation.
        num_workers: number of processes that map; 0: map in this process.
        collate_fn: converts the list of a batch's inputs.
        drop_last: leave out an incomplete last batch; without effect on groups, which keep none.
        **kwargs: further arguments of ``torch.utils.data.DataLoader``.

    Raises:
        ValueError: the number of images does not divide by the number of processes.
    """
    processes = torch.distributed.get_world_size() if _is_distributed() else 1
    if total_batch_size <= 0 or total_batch_size % processes:
        raise ValueError(f"a batch of {total_batch_size} images does not divide by {processes} processes")
    batch_size = total_batch_size // processes
    by_index = not isinstance(dataset, IterableDataset)
    loader = DataLoader(
        dataset,
        sampler=sampler if by_index else None,
        batch_size=None if aspect_ratio_grouping else batch_size,
        drop_last=drop_last and not aspect_ratio_grouping,
        num_workers=num_workers,
        collate_fn=trivial_batch_collator
        if aspect_ratio_grouping
        else (collate_fn or trivial_batch_collator),
        **kwargs,
    )
    if not aspect_ratio_grouping:
        return loader
    batches = AspectRatioGroupedDataset(loader, batch_size)
    return batches if collate_fn is None else _Collated(batches, collate_fn)


class _Collated:
    def __init__(self, batches: Any, collate_fn: Callable[[list[Any]], Any]) -> None:
        self.batches, self.collate_fn = batches, collate_fn

    def __iter__(self) -> Iterator[Any]:
        return map(self.collate_fn, self.batches)


def _is_cfg(value: Any) -> bool:
    return hasattr(value, "DATALOADER")


def _train_records(cfg: Any) -> Records:
    return get_detection_dataset_dicts(
        cfg.DATASETS.TRAIN,
        filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        min_keypoints=cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0,
        proposal_files=cfg.DATASETS.PROPOSAL_FILES_TRAIN if cfg.MODEL.LOAD_PROPOSALS else None,
    )


def _test_records(cfg: Any, names: str | Sequence[str] | None) -> Records:
    names = [names] if isinstance(names, str) else list(cfg.DATASETS.TEST if names is None else names)
    files = None
    if cfg.MODEL.LOAD_PROPOSALS:
        file_of = dict(zip(cfg.DATASETS.TEST, cfg.DATASETS.PROPOSAL_FILES_TEST, strict=False))
        files = [file_of[name] for name in names if name in file_of]
    return get_detection_dataset_dicts(names, filter_empty=False, proposal_files=files)


def _train_sampler(cfg: Any, dataset: Any, seed: int | None) -> Sampler[int]:
    name, node = cfg.DATALOADER.SAMPLER_TRAIN, cfg.DATALOADER
    if name == "TrainingSampler":
        return TrainingSampler(len(dataset), seed=seed)
    if name == "RepeatFactorTrainingSampler":
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            dataset, node.REPEAT_THRESHOLD, sqrt=node.REPEAT_SQRT
        )
        return RepeatFactorTrainingSampler(factors, seed=seed)
    raise ConfigError(
        "unknown sampler",
        got=f"DATALOADER.SAMPLER_TRAIN: {name}",
        expected="TrainingSampler or RepeatFactorTrainingSampler",
        remedy="give build_detection_train_loader a sampler",
    )


def _needed(name: str, value: Option | None) -> Option:
    if value is None:
        raise TypeError(f"a loader without a configuration needs {name}")
    return value


def _records_by_index(dataset: Any) -> Any:
    if isinstance(_needed("dataset", dataset), IterableDataset):
        raise TypeError("a loader needs records by index; got an IterableDataset")
    if _is_distributed():
        raise NotImplementedError(
            "loaders support a single process; give each of several processes a sampler of its share"
        )
    return dataset


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
