"""Loggers of runs, and messages that are not repeated."""

import logging
from pathlib import Path

import pytest

from detexport.utils.logger import (
    create_small_table,
    log_every_n,
    log_every_n_seconds,
    log_first_n,
    setup_logger,
)


def test_a_logger_writes_to_a_file_of_each_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for rank in (0, 1):
        for _ in range(2):  # a second call adds nothing
            logger = setup_logger(tmp_path, rank, name=f"run{rank}")
        logger.info("message of %d", rank)
    assert capsys.readouterr().out.count("message of 0") == 1
    assert (tmp_path / "log.txt").read_text().count("message of 0") == 1
    assert (tmp_path / "log.txt.rank1").read_text().count("message of 1") == 1
    for rank in (0, 1):
        for handler in list(logging.getLogger(f"run{rank}").handlers):
            logging.getLogger(f"run{rank}").removeHandler(handler)
            handler.close()


def test_repeated_messages(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        for index in range(5):
            log_first_n(logging.INFO, f"first {index}", n=2)
            log_first_n(logging.INFO, "same", key="message")
            log_every_n(logging.INFO, f"every {index}", n=2)
            log_every_n_seconds(logging.INFO, f"seconds {index}", n=1000)
    messages = [record.getMessage() for record in caplog.records]
    assert sorted(messages) == ["every 0", "every 2", "every 4", "first 0", "first 1", "same", "seconds 0"]
    assert {record.name for record in caplog.records} == {__name__}


def test_a_small_table() -> None:
    assert create_small_table({"AP": 40.0, "name": "x"}).splitlines() == [
        "|   AP   | name |",
        "|:------:|:----:|",
        "| 40.000 |  x   |",
    ]


def test_the_logger_of_this_package_is_configured_with_detectron2s(tmp_path: Path) -> None:
    own = logging.getLogger("detexport")
    before, level = list(own.handlers), own.level
    try:
        setup_logger(tmp_path / "log.txt", name="detectron2", configure_stdout=False)
        logging.getLogger("detexport.data").warning("from inside")
        assert "from inside" in (tmp_path / "log.txt").read_text()
    finally:
        for logger in (own, logging.getLogger("detectron2")):
            for handler in list(logger.handlers):
                if handler not in before:
                    logger.removeHandler(handler)
                    handler.close()
            logger.propagate = True
        own.setLevel(level)
