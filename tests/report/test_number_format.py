import pytest

from detexport.report.number_format import delta, first_upper, metric, number, percent, plural, size, speed
from detexport.results.job_metrics import job_metrics, job_summary


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "\u2013"), (0, "0"), (4.56e-5, "4.6e-5"), (0.0123, "0.0123"), (12345.6, "12346"), (2e7, "2.0e7")],
)
def test_numbers(value: float | None, text: str) -> None:
    assert number(value) == text


def test_words_for_sizes_and_ratios() -> None:
    assert (size(2_400_000), size(1500)) == ("2.4 MB", "1.5 kB")
    assert [speed(ratio) for ratio in (0.5, 1.0, 2.0)] == [
        "2.00\u00d7 faster",
        "as fast as eager",
        "2.00\u00d7 slower",
    ]


@pytest.mark.parametrize("ratio", [0.72205, 0.7222, 0.0812345])
def test_the_speedup_is_that_of_dvc(ratio: float) -> None:
    verdict = {"passed": True, "max": {}, "detections": {}}
    measured = dict.fromkeys(("p50_ms", "p90_ms", "p99_ms", "mean_ms", "load_s"), 1.0)
    metrics = job_metrics(verdict, {"cpu": {**measured, "ratio_to_eager": ratio}})
    assert speed(ratio) == f"{job_summary(metrics)['speedup']:.2f}\u00d7 faster"


def test_metrics_and_their_deltas() -> None:
    assert (metric(0.71470), metric(None)) == ("0.715", "\u2013")
    assert [delta(value) for value in (0.0, 3e-5, 0.0012, -0.0312)] == [
        "\u00b10",
        "\u00b10",
        "+0.0012",
        "\u22120.0312",
    ]


def test_fractions_and_counts() -> None:
    assert [percent(value) for value in (0, 0.004, 0.5, 3, 1e9)] == [
        "0 %",
        "< 1 %",
        "50 %",
        "300 %",
        "over 10000 %",
    ]
    assert (plural(1, "job"), plural(0, "job")) == ("1 job", "0 jobs")


@pytest.mark.parametrize(
    ("text", "expected"), [("box AP", "Box AP"), ("mIoU", "mIoU"), ("PQ", "PQ"), ("x", "X"), ("", "")]
)
def test_a_sentence_begins_in_upper_case(text: str, expected: str) -> None:
    assert first_upper(text) == expected
