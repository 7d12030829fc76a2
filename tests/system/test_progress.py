"""Progress of a long step: lines on the standard error, none on the standard output."""

import re
import sys
import threading
import time

import pytest

from detexport.system import progress
from detexport.system.progress import progress_bar, say, showing, silent, step

SOON_S = 0.02


def reporters() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.endswith("(report)")]


def wait_for_reporters() -> None:
    for thread in reporters():
        thread.join(10)


def test_a_line_goes_to_the_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    say("reading")
    say()
    assert capsys.readouterr() == ("", "reading\n\n")


def test_a_short_step_has_a_line_at_its_begin_and_one_at_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    with step("export"):
        assert capsys.readouterr() == ("", "export ...\n")
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"export: \d+\.\d s\n", err)


def test_a_long_step_reports_its_running_time(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "REPORT_EVERY_S", SOON_S)
    with step("export"):
        time.sleep(20 * SOON_S)
    first, *between, last = capsys.readouterr().err.splitlines()
    assert first == "export ..."
    assert len(between) >= 2
    assert {re.sub(r"\d+", "N", line) for line in between} == {"export ... N s"}
    assert last.startswith("export: ")


def test_nothing_is_reported_after_a_step(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "REPORT_EVERY_S", SOON_S)
    with step("export"):
        assert reporters()
    wait_for_reporters()
    assert reporters() == []
    capsys.readouterr()
    time.sleep(3 * SOON_S)
    assert capsys.readouterr().err == ""


def test_a_step_that_fails_reports_no_end_and_stops(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="no file"), step("export"):
        raise ValueError("no file")
    wait_for_reporters()
    assert reporters() == []
    assert capsys.readouterr().err == "export ...\n"


def test_a_silent_step_prints_nothing_and_hides_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), silent("a step"):
        raise ZeroDivisionError
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("shown", [None, True, False])
@pytest.mark.parametrize("is_terminal", [True, False])
def test_progress_is_shown_on_a_terminal_unless_the_caller_decides(
    shown: bool | None,
    is_terminal: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    is_shown = is_terminal if shown is None else shown
    with showing(shown) as report:
        assert report is (step if is_shown else silent)
        assert list(progress_bar([1, 2], desc="images")) == [1, 2]
    assert ("images" in capsys.readouterr().err) == is_shown
    list(progress_bar([1, 2], desc="images"))
    assert "images" in capsys.readouterr().err, "outside of the block bars are shown"
