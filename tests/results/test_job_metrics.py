"""The metrics of one job: their names, their order, and what is left out."""

from typing import Any

import pytest

from detexport.parity.measures import MEASURES
from detexport.results.job_metrics import accuracy_name, accuracy_words, error_name, job_metrics

VERDICT: dict[str, Any] = {
    "passed": True,
    "accuracy": {
        "artifact": {"bbox/AP": 0.71, "bbox/AP50": 0.92, "segm/AP": 0.69, "bbox/APs": 0.6},
        "differences": {"bbox/AP": -0.01, "segm/AP": 0.0},
        "budget": 0.02,
    },
    "max": {"box_error_px": 2e-5, "score_error": None, "mask_error_px": 1, "keypoint_flip_ratio": 0.01},
    "detections": {"expected": 8, "actual": 7, "paired": 7},
}
RUNNER = {
    "p50_ms": 12.5,
    "p90_ms": 14.0,
    "p99_ms": 20.0,
    "mean_ms": 13.0,
    "ratio_to_eager": 0.4,
    "load_s": 0.1,
    "size_bytes": 2_500_000,
}


def test_a_job_has_one_flat_dict_of_named_metrics() -> None:
    assert job_metrics(VERDICT, {"cpu": RUNNER}) == {
        "passed": True,
        "ap_box": 0.71,
        "ap_box_delta": -0.01,
        "ap_mask": 0.69,
        "ap_mask_delta": 0.0,
        "ap_box_50": 0.92,
        "ap_box_small": 0.6,
        "latency_cpu_p50_ms": 12.5,
        "latency_cpu_p90_ms": 14.0,
        "latency_cpu_p99_ms": 20.0,
        "latency_cpu_mean_ms": 13.0,
        "load_cpu_s": 0.1,
        "speedup_vs_eager": 2.5,
        "size_mb": 2.5,
        "box_error_px_max": 2e-5,
        "mask_error_px_max": 1,
        "keypoint_flip_ratio": 0.01,
        "detections_expected": 8,
        "detections_actual": 7,
        "detections_paired": 7,
    }


def test_what_was_not_measured_is_left_out() -> None:
    found = job_metrics({**VERDICT, "passed": False, "accuracy": None}, {})
    assert found["passed"] is False
    assert not [name for name in found if name.startswith(("ap_", "latency_", "speedup_", "size_", "score_"))]
    assert job_metrics(VERDICT, {}, size_bytes=1_500_000)["size_mb"] == 1.5
    without_eager = {name: value for name, value in RUNNER.items() if name != "ratio_to_eager"}
    assert "speedup_vs_eager" not in job_metrics(VERDICT, {"cpu": without_eager})


def test_a_metric_that_the_artifact_lacks_counts_as_0() -> None:
    accuracy = {"artifact": {}, "differences": {"segm/AP": -0.69}, "budget": 0.02}
    found = job_metrics({**VERDICT, "accuracy": accuracy}, {})
    assert found["ap_mask"] == 0.0
    assert found["ap_mask_delta"] == -0.69


def test_devices_do_not_share_a_name() -> None:
    both = job_metrics(VERDICT, {"cpu": RUNNER, "cuda": {**RUNNER, "p50_ms": 2.0, "ratio_to_eager": 0.8}})
    assert both["latency_cpu_p50_ms"] == 12.5
    assert both["latency_cuda_p50_ms"] == 2.0
    assert both["speedup_vs_eager"] == 2.5
    assert both["speedup_vs_eager_cuda"] == 1.25


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        ("bbox/AP", "ap_box"),
        ("segm/AP75", "ap_mask_75"),
        ("keypoints/APm", "ap_keypoint_medium"),
        ("bbox/APl", "ap_box_large"),
        ("proposals/AR100", "ar_proposal_100"),
        ("panoptic/PQ", "pq"),
        ("panoptic/SQ_th", "sq_th"),
        ("sem_seg/mIoU", "miou"),
    ],
)
def test_names_of_task_metrics(metric: str, name: str) -> None:
    assert accuracy_name(metric) == name


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("bbox/AP", "box AP"),
        ("segm/AP75", "mask AP75"),
        ("proposals/AR100", "proposal AR100"),
        ("panoptic/PQ", "PQ"),
    ],
)
def test_words_of_task_metrics(metric: str, words: str) -> None:
    assert accuracy_words(metric) == words


def test_no_two_errors_share_a_name() -> None:
    names = [error_name(name) for name in MEASURES]
    assert len(set(names)) == len(names)
    assert {"box_error_px_max", "score_error_max", "mask_error_px_max", "keypoint_flip_ratio"} <= set(names)
