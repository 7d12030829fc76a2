"""The figures of large runs follow from the measured ones, and are written into the page."""

from pathlib import Path

import pytest

from benchmark_scale_out import BEGIN, END, job_cpu_seconds, summary, table, write_section
from detexport.system.files import write_json

MEASURED = {
    name: {1: [seconds, seconds], 2: [seconds / 1.8, seconds / 1.8]}
    for name, seconds in {
        "start of Ray": 3.0,
        "image of a prediction": 0.36,
        "job": 36.0,
        "empty command": 0.5,
    }.items()
}


def figures(job_cpu_s: dict[str, float]) -> dict[str, object]:
    measured = {name: summary(by_workers, 2) for name, by_workers in MEASURED.items()}
    return {
        "cpus": 2,
        "workers": 2,
        "rounds": 2,
        "model": "m",
        "measured": measured,
        "job_cpu_s": job_cpu_s,
    }


def test_the_efficiency_is_the_speed_up_per_worker() -> None:
    assert summary({1: [9.0, 1.0, 2.0], 2: [1.0, 2.0, 1.25]}, 2) == {
        "seconds_1": 2.0,
        "seconds_2": 1.25,
        "efficiency": 0.8,
        "rounds": {"1": [9.0, 1.0, 2.0], "2": [1.0, 2.0, 1.25]},
    }


def test_large_runs_are_worked_out_at_the_measured_efficiency() -> None:
    lines = table(figures({}))
    assert "| job | 36.000 s | 20.000 s | 0.90 |" in lines
    assert "| start of Ray | 3.000 s | 1.667 s |  |" in lines
    assert "| 10,000,000 images | 1,000 | 1,000.0 h | 555.6 h | 17.4 h | 4.3 h |" in lines
    assert "| 10,000 jobs | 100 | 100.0 h | 55.6 h | 1.7 h | 0.4 h |" in lines


def test_the_stages_of_a_job_are_those_that_ran(tmp_path: Path) -> None:
    assert job_cpu_seconds(tmp_path / "none") == {}
    times = {"export@a": 10.0, "export@b": 20.0, "validate@a": 20.0}
    write_json(tmp_path / "outcomes.json", {name: {"cpu_seconds": value} for name, value in times.items()})
    stages = job_cpu_seconds(tmp_path / "outcomes.json")
    assert stages == {"export": 15.0, "validate": 20.0}
    (whole,) = (line for line in table(figures(stages)) if "all stages" in line)
    assert whole.startswith("| 10,000 jobs with all stages of the pipeline | 100 | 100.0 h | 55.6 h |")


def test_the_section_of_the_page_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_section(page, ["new"])
    assert page.read_text() == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    page.write_text("no section")
    with pytest.raises(SystemExit, match="has no section of figures"):
        write_section(page, ["new"])
