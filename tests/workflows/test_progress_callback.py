"""A workflow that reports to nobody runs as one that reports, errors included."""

import pytest

from detexport.workflows.progress_callback import silent


def test_a_silent_step_prints_nothing_and_hides_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), silent("a step"):
        raise ZeroDivisionError
    assert capsys.readouterr() == ("", "")
