"""The user's annotated images for evaluation; free of torch."""

from pathlib import Path

from detexport.contract import Contract
from detexport.data.coco import (
    AnnotationKind,
    CocoDataset,
    CocoRecord,
    check_image_sizes,
    find_annotations,
    find_image_folder,
    load_coco,
    require_images,
)
from detexport.engine.evaluation import select_evenly
from detexport.errors import MissingAnnotationsError, listed
from detexport.formats.image_files import list_images
from detexport.metrics.evaluate import annotation_kind

SPLIT = "val"


def load_dataset(
    folder: Path,
    class_names: tuple[str, ...] = (),
    kind: AnnotationKind = "instances",
    *,
    evaluated: bool = True,
) -> CocoDataset:
    """Read the validation split, and check that its images have the sizes of their records.

    Args:
        folder: in the standard layout, or in that of COCO's downloads.
        class_names: the classes to keep, in their order; empty keeps all.
        kind: annotations that the model is evaluated by.
        evaluated: whether it is evaluated; if not, instances are enough where there are no keypoints.
    """
    if not evaluated and not find_annotations(folder, SPLIT, kind).exists():
        kind = "instances"
    dataset = load_coco(folder, SPLIT, class_names or None, kind)
    check_image_sizes(dataset)
    return dataset


def load_annotated(folder: Path, contract: Contract) -> CocoDataset:
    """Read the validation split with the annotations that a contract's outputs are evaluated by.

    Its classes are selected by the contract's names, or by their order if those are numbers.

    Raises:
        MissingAnnotationsError: the data set has other classes.
    """
    names = contract.class_names
    numbered = names == tuple(map(str, range(len(names))))
    dataset = load_dataset(folder, kind=annotation_kind(contract))
    existing = dataset.class_names
    if names == existing or not names or (numbered and len(names) == len(existing)):
        return dataset
    if numbered or not set(names) <= set(existing):
        raise MissingAnnotationsError(
            f"{folder} does not have the classes of the artifact",
            got=f"{len(existing)} categories: {listed(existing)}",
            expected=f"{len(names)}: {listed(names)}",
            remedy="choose other data",
        )
    return load_dataset(folder, names, annotation_kind(contract))


def choose_records(folder: Path, contract: Contract, number: int) -> tuple[CocoRecord, ...]:
    """Return ``number`` evenly spaced images of the validation split, without evaluating annotations.

    Raises:
        DataError: there is no image.
    """
    dataset = require_images(load_dataset(folder, kind=annotation_kind(contract), evaluated=False))
    return select_evenly(dataset, number).images


def training_images(folder: Path) -> list[Path]:
    """Return the images of the training split, if there is one."""
    return list_images(find_image_folder(folder, "train"))
