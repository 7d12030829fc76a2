import json
from pathlib import Path

from detexport.retraining.data_checks import DataCheck
from detexport.retraining.summary import PROMOTED, Step, Summary, write_summary

DECISION = {
    "job": "m-onnx",
    "name": "m-onnx",
    "version": "4",
    "decision": "refused",
    "reasons": ["ap_box 0.1 is below <the limit>"],
    "numbers": {},
    "champion_before": "3",
    "champion_after": "3",
}


def test_a_summary_is_written_as_json_and_as_a_page(tmp_path: Path) -> None:
    summary = Summary("/srv/detector", "2026-01-01T02:00:00+00:00", stale=["train@m"])
    summary.steps += [Step("pull", 1.25), Step("status", 0.5)]
    summary.data += [DataCheck("val", "label shift", "cat 60%", "0.300: cat 90%", "0.2", False)]
    summary.decisions.append(DECISION)
    summary.parity["m-onnx"] = "differs"
    summary.environment.append("torch 2.15.0 -> 2.16.0")
    summary.refuse("the reason")
    write_summary(summary, tmp_path)
    value = json.loads((tmp_path / "retraining.json").read_text())
    assert (value["outcome"], value["exit_code"], value["duration_s"]) == ("refused", 1, 1.8)
    assert value["data"][0]["passed"] is False
    assert value["decisions"] == [DECISION]
    page = (tmp_path / "retraining.html").read_text()
    for text in (
        "refused",
        "the reason",
        "label shift",
        "train@m",
        "below &lt;the limit&gt;",
        "differs",
        "torch 2.15",
    ):
        assert text in page
    assert "<the limit>" not in page


def test_the_lines_name_versions_and_reasons() -> None:
    summary = Summary("/srv", "2026-01-01T02:00:00+00:00", outcome=PROMOTED, steps=[Step("a", 2)])
    summary.decisions += [DECISION | {"decision": "promoted"}, DECISION | {"version": "", "name": "other"}]
    summary.environment.append("torch 2.15.0 -> 2.16.0")
    assert summary.lines() == [
        "promoted in 2.0 s",
        "m-onnx version 4: promoted",
        "  the environment changed: torch 2.15.0 -> 2.16.0",
    ]
