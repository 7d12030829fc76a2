"""Classes of all jobs of a model, whatever was measured of each."""

from typing import Any

from detexport.report.by_class import ClassRow, class_rows, measured_metrics
from detexport.report.collect import ReportedJob


def job(target: str, accuracy: dict[str, Any] | None) -> ReportedJob:
    return ReportedJob(f"m-{target}", "m", target, parity={"accuracy": accuracy})


def of(metric: str, artifact: float) -> dict[str, Any]:
    classes = {
        "water": {"objects": 3, "eager": 0.5, "artifact": artifact},
        "sky": {"objects": 0, "eager": None, "artifact": None},
    }
    return {"per_class": {metric: classes}}


def test_each_target_has_its_column() -> None:
    jobs = [job("onnx", of("panoptic/PQ", 0.5)), job("int8", of("panoptic/PQ", 0.25))]
    assert class_rows(jobs, "panoptic/PQ") == [
        ClassRow("water", 3, 0.5, {"onnx": 0.5, "int8": 0.25}),
        ClassRow("sky", 0, None, {"onnx": None, "int8": None}),
    ]


def test_metrics_of_a_class_have_their_own_words() -> None:
    jobs = [job("onnx", of("sem_seg/mIoU", 0.5)), job("int8", of("bbox/AP", 0.5))]
    assert measured_metrics(jobs) == {"sem_seg/mIoU": "IoU", "bbox/AP": "box AP"}


def test_jobs_without_an_accuracy_have_no_classes() -> None:
    for jobs in ([job("onnx", None)], [ReportedJob("m-onnx", "m", "onnx")], []):
        assert measured_metrics(jobs) == {}
        assert class_rows(jobs, "bbox/AP") == []
