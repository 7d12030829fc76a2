import json
import logging
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from detexport.errors import RuntimeUnavailableError
from detexport.utils.events import (
    CommonMetricPrinter,
    EventStorage,
    HistoryBuffer,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
    has_event_storage,
    name_scope,
    record,
)


def test_the_innermost_storage_is_active_inside_its_block() -> None:
    assert not has_event_storage()
    with pytest.raises(RuntimeError, match="no event storage is active"):
        get_event_storage()
    with EventStorage() as outer:
        with EventStorage(5) as inner:
            assert get_event_storage() is inner
        assert get_event_storage() is outer
    with pytest.raises(ZeroDivisionError), EventStorage():
        _ = 1 / 0
    assert not has_event_storage()


def test_scalars_by_iteration() -> None:
    with EventStorage(start_iter=10) as storage:
        for value in (4.0, 1.0, 2.0):
            storage.put_scalar("loss", torch.tensor(value))
            storage.put_scalars(lr=value / 10, smoothing_hint=False)
            storage.step()
        storage.put_scalar("late", 1, cur_iter=99)
    assert storage.iter == 13
    assert storage.latest() == {"loss": (2.0, 12), "lr": (0.2, 12), "late": (1.0, 99)}
    smoothed = storage.latest_with_smoothing_hint(20)
    assert smoothed == {"loss": (2.0, 12), "lr": (0.2, 12), "late": (1.0, 99)}
    assert storage.latest_with_smoothing_hint(2)["loss"] == (1.5, 12)
    assert storage.history("loss").values() == [(4.0, 10), (1.0, 11), (2.0, 12)]
    assert storage.smoothing_hints() == {"loss": True, "lr": False, "late": True}
    assert set(storage.histories()) == {"loss", "lr", "late"}
    with pytest.raises(KeyError, match="no scalar 'lost'"):
        storage.history("lost")
    with pytest.raises(ValueError, match="smoothing_hint"):
        storage.put_scalar("lr", 1)


def test_a_history_keeps_the_newest_and_the_mean_of_all() -> None:
    history = HistoryBuffer(max_length=3)
    for value in (100.0, 1.0, 2.0, 6.0):
        history.update(value)
    assert history.values() == [(1, 1), (2, 2), (6, 3)]
    assert history.latest() == 6
    assert history.median(3) == history.median(50) == 2
    assert history.avg(2) == 4
    assert history.global_avg() == 109 / 4


def test_name_scopes_nest_and_end() -> None:
    with EventStorage() as storage:
        with storage.name_scope("stage0"), storage.name_scope("box/"):
            storage.put_scalar("x", 1)
        with pytest.raises(ZeroDivisionError), storage.name_scope("bad"):
            _ = 1 / 0
        storage.put_scalar("x", 2)
    assert storage.latest() == {"stage0/box/x": (1, 0), "x": (2, 0)}


def test_images_and_histograms_keep_the_newest() -> None:
    storage = EventStorage(3)
    for value in (0.0, 1.0):
        storage.put_image("seen", torch.full((3, 2, 2), value))
    storage.put_histogram("weights", torch.arange(10.0, requires_grad=True), bins=5)
    image, iteration = storage.images["seen"]
    assert (float(image.sum()), iteration) == (12, 3)
    counts, edges, _ = storage.histograms["weights"]
    assert counts.tolist() == [2] * 5
    np.testing.assert_allclose(edges, [0, 1.8, 3.6, 5.4, 7.2, 9])
    storage.clear_images()
    storage.clear_histograms()
    assert not storage.images
    assert not storage.histograms


def test_json_lines_contain_each_iteration_once(tmp_path: Path) -> None:
    writer = JSONWriter(tmp_path / "metrics.json")
    with EventStorage() as storage:
        storage.put_scalar("early", 3)
        storage.step()
        storage.put_scalar("loss", 2)
        writer.write()
        writer.write()
        storage.step()
        storage.put_scalar("loss", 4)
        writer.write()
    writer.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert lines == [
        {"early": 3, "iteration": 0},
        {"loss": 2, "iteration": 1},
        {"loss": 3, "iteration": 2},  # the median of both values
    ]


def test_the_printer_logs_losses_times_and_remaining_time(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="detexport")
    printer = CommonMetricPrinter(max_iter=11)
    with EventStorage() as storage:
        storage.put_scalars(total_loss=1.25, time=60.0, accuracy=0.5)
        storage.put_scalar("lr", 0.02, smoothing_hint=False)
        printer.write()
        storage.iter = 11
        printer.write()
    (line,) = caplog.messages
    assert line.startswith("eta: 0:10:00  iter: 0  total_loss: 1.25  time: 60.0000  lr: 0.02")
    assert "accuracy" not in line


def test_the_printer_uses_the_clock_if_no_time_is_recorded(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="detexport")
    printer = CommonMetricPrinter(max_iter=1000)
    with EventStorage() as storage:
        printer.write()
        storage.step()
        printer.write()
    assert [message.startswith("eta: ") for message in caplog.messages] == [False, True]


@pytest.mark.skipif(find_spec("tensorboard") is not None, reason="tensorboard is installed")
def test_a_missing_tensorboard_is_named(tmp_path: Path) -> None:
    with pytest.raises(RuntimeUnavailableError, match="needs the package tensorboard"):
        TensorboardXWriter(str(tmp_path))


def test_values_are_not_computed_without_a_storage() -> None:
    record("x", lambda: 1 / 0)
    with name_scope("stage0"):
        record("x", lambda: 1 / 0)
    with EventStorage() as storage, name_scope("stage0"):
        record("x", lambda: torch.tensor(2))
    assert storage.latest() == {"stage0/x": (2.0, 0)}
