"""A parity report in lines of text: what a command prints about it."""

import re

from reports import accuracy_of, measured, one_sided, report_of

from detexport.errors import LONGEST_MESSAGE
from detexport.parity.report_text import (
    MOST_REASONS,
    MOST_UNMATCHED,
    accuracy_lines,
    check_lines,
    report_lines,
    undetermined_lines,
)


def test_a_check_has_a_line_for_each_error_with_its_limit() -> None:
    report = report_of(measured(errors={"box_error_px": 0.00123, "score_error": 0.0}), measured(2))
    assert [re.sub(" +", " ", line) for line in check_lines(report)] == [
        "model-onnx compared with the model on 2 inputs: passed; 6 of 6 detections paired",
        " boxes 0.0012 px (limit 0.01 px x scale)",
        " scores 0 (limit 0.0002)",
        " masks not measured (limit 9 px or 0.5% of the area)",
    ]


def test_a_check_on_which_the_model_detects_nothing_warns() -> None:
    first, second, *_ = check_lines(report_of(measured(0)))
    assert first.endswith("passed; 0 of 0 detections paired")
    assert second.startswith("warning: the model detects nothing on these inputs")
    assert second.endswith("give --sample")


def test_a_check_names_what_is_undetermined() -> None:
    report = report_of(measured(5, paired=4, missing=(one_sided(undetermined=True),)))
    assert check_lines(report)[-1] == "  undetermined: 1 of 5 detections missing, 0 extra, on a"


def test_metrics_stand_side_by_side_with_their_difference() -> None:
    accuracy = accuracy_of(0.5, 0.4375)
    accuracy.eager["segm/AP"] = 0.25
    header, boxes, masks = (line.split() for line in accuracy_lines(accuracy))
    assert header == ["on", "8", "annotated", "images", "model", "artifact", "difference"]
    assert boxes == ["bbox/AP", "0.5000", "0.4375", "-0.0625"]
    assert masks == ["segm/AP", "0.2500", "0.0000", "-0.2500"]


def test_a_report_has_the_answer_to_each_question() -> None:
    lines = report_lines(report_of(measured(), measured(numerics=("boxes: far",))))
    assert lines[0] == "model-onnx: did not pass"
    assert [line.split()[:2] for line in lines[1:3]] == [["contract", "passed"], ["numerics", "FAILED"]]
    assert lines[3] == "    b: boxes: far"
    assert lines[4].split()[:2] == ["matching", "passed"]
    assert lines[5].split()[:3] == ["accuracy", "not", "evaluated"]
    assert lines[5].endswith("not measured")


def test_many_reasons_are_counted() -> None:
    lines = report_lines(report_of(measured(broken=tuple(f"fault {n}" for n in range(MOST_REASONS + 3)))))
    faults = [line for line in lines if "fault" in line]
    assert len(faults) == MOST_REASONS
    assert lines[lines.index(faults[-1]) + 1] == "    and 3 more reasons"
    exactly = report_lines(report_of(measured(broken=tuple(f"fault {n}" for n in range(MOST_REASONS)))))
    assert not any("more reasons" in line for line in exactly)


def test_a_reason_of_many_lines_is_one_line() -> None:
    lines = report_lines(report_of(faults=("first\nsecond \x1b[31m" + "x" * 2000,)))
    (reason,) = [line for line in lines if "first" in line]
    assert reason.startswith("    first second \\x1b[31m")
    assert len(reason) <= LONGEST_MESSAGE + 4


def test_unmatched_detections_are_listed_with_what_decided_them() -> None:
    sample = measured(paired=2, missing=(one_sided(0.75, excused=True),), extra=(one_sided(0.5),))
    assert report_lines(report_of(sample))[-2:] == [
        "  extra in a: class 1, score 0.5000, 0.12 from the score threshold",
        "  missing in a: class 1, score 0.7500, at the edge: 0.12 from the score threshold",
    ]


def test_many_unmatched_detections_are_counted() -> None:
    lines = report_lines(report_of(measured(extra=(one_sided(),) * (MOST_UNMATCHED + 2))))
    assert sum(line.startswith("  extra in a") for line in lines) == MOST_UNMATCHED
    assert lines[-1] == "  and 2 more unmatched detections"


def test_undetermined_detections_are_a_line_and_no_entry_of_the_list() -> None:
    undetermined = (one_sided(undetermined=True),)
    sample = measured(5, paired=3, missing=undetermined, extra=undetermined)
    lines = report_lines(report_of(sample))
    assert "  undetermined: 1 of 5 detections missing, 1 extra, on a" in lines
    assert not any("in a: class" in line for line in lines)


def test_numbers_that_noise_dominates_are_named_with_their_inputs() -> None:
    report = report_of(*[measured(noise_dominated=("score", "box_px"))] * 7)
    (line,) = undetermined_lines(report)
    assert line.startswith("undetermined numbers (the model's own error exceeds the tolerance by far): a (")
    assert line.endswith("e (score, box_px) and 2 more")
    assert undetermined_lines(report_of(measured())) == []
