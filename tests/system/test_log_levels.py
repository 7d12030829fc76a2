import logging

import pytest

from detexport.system.log_levels import only_errors


def test_only_errors_are_logged_within_the_block(caplog: pytest.LogCaptureFixture) -> None:
    # Packages that other tests use raise the root's level.
    caplog.set_level(logging.WARNING)
    logger = logging.getLogger("noisy")
    with only_errors("noisy"):
        logger.warning("suppressed")
        logger.error("shown")
    logger.warning("after the block")
    assert caplog.messages == ["shown", "after the block"]
