"""What the model and its artifact find on the user's annotated images."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from detexport.cli.progress import say
from detexport.data.coco import (
    AnnotationKind,
    CocoDataset,
    CocoRecord,
    check_image_sizes,
    find_annotations,
    load_coco,
)
from detexport.engine.evaluation import predict_record
from detexport.metrics.evaluate import Evaluator, ImageEvaluation
from detexport.metrics.tallies import pack_tallies
from detexport.parity.accuracy import BUDGETS, FLOAT32, MIN_ACCURACY, Accuracy, measure_accuracy
from detexport.reference.progress import Progress
from detexport.reference.store import EagerAccuracy
from detexport.runtime.session import Session

SPLIT = "val"


def load_dataset(
    folder: Path,
    class_names: tuple[str, ...] = (),
    kind: AnnotationKind = "instances",
    *,
    judged: bool = True,
) -> CocoDataset:
    """Read the validation split, and check that its images have the sizes of their records.

    Args:
        folder: in the standard layout, or in that of COCO's downloads.
        class_names: the classes to keep, in their order; without any all are kept.
        kind: annotations that the model is judged by.
        judged: whether it is judged; if not, instances do where there are no keypoints.
    """
    if not judged and not find_annotations(folder, SPLIT, kind).exists():
        kind = "instances"
    dataset = load_coco(folder, SPLIT, class_names or None, kind)
    check_image_sizes(dataset)
    return dataset


def evaluate_eager(
    net: Any, dataset: CocoDataset, keypoint_sigmas: tuple[float, ...], progress: Progress | None = None
) -> EagerAccuracy:
    """What the eager model finds on all images of a split.

    Args:
        net: in evaluation mode.
        dataset: the split, with keypoints if the model gives them.
        keypoint_sigmas: see ``coco_ap``.
        progress: what an earlier run has found, which this one goes on from.
    """
    judge, progress = Evaluator(dataset, keypoint_sigmas), progress or Progress()

    def look(record: CocoRecord) -> ImageEvaluation:
        return judge.look(record, predict_record(net, record))

    def findings() -> Iterator[ImageEvaluation]:
        for record in tqdm(dataset.images, desc="task metric of the model", unit="image"):
            yield progress.once(f"task metric {record.image_id!r}", ImageEvaluation, partial(look, record))

    judged = judge.conclude(findings())
    tallies = pack_tallies(judged.tallies)
    return EagerAccuracy(judged.metrics, judged.image_ids, tallies)


def evaluate_both(net: Any, session: Session, dataset: CocoDataset, *, precision: str) -> Accuracy:
    """Evaluate the eager model and the artifact on all images of a split.

    Args:
        net: the eager model.
        session: the artifact, loaded.
        dataset: the split, with keypoints if the model gives them.
        precision: the target's; empty: float32.
    """
    eager = evaluate_eager(net, dataset, session.artifact.contract.oks_sigmas)
    precision = precision or FLOAT32
    return measure_accuracy(
        session, eager, dataset, precision=precision, budget=BUDGETS[precision], least=MIN_ACCURACY
    )


def print_accuracy(accuracy: Accuracy) -> None:
    """Print the metrics of both, and the differences."""
    say(f"on {accuracy.images} annotated images {'model':>10} {'artifact':>10} {'difference':>11}")
    for name, value in accuracy.eager.items():
        found = accuracy.artifact.get(name, 0.0)
        say(f"  {name:24} {value:10.4f} {found:10.4f} {found - value:+11.4f}")
