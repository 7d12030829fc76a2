import signal
import time

import pytest

from detexport.retraining.time_limit import TimeLimitError, time_limit


def test_the_block_is_ended_when_the_time_is_up() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(TimeLimitError, match="--timeout") as raised, time_limit(0.2):
        time.sleep(60)
    assert raised.value.exit_code == 3
    assert signal.getsignal(signal.SIGALRM) is before


def test_a_block_that_ends_in_time_is_not_disturbed() -> None:
    for seconds in (None, 0.2):
        with time_limit(seconds):
            pass
    time.sleep(0.3)
