"""Notifications over HTTP on the loopback interface."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from receiver import Receiver, listening

from detexport.errors import ConfigError
from detexport.retraining import notification
from detexport.retraining.notification import NotificationError, check_address, keep_pending, send_pending


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setattr(notification, "WAITS_S", (0.01, 0.01))
    with listening() as server:
        yield server


def test_a_summary_is_received_once(receiver: Receiver, tmp_path: Path) -> None:
    pending = tmp_path / "notification.json"
    send_pending(pending, receiver.address)
    assert receiver.received == []
    keep_pending(pending, {"outcome": "promoted"})
    for _ in range(2):
        send_pending(pending, receiver.address)
    wanted = ("/hook?token=secret-token", "application/json", {"outcome": "promoted"}, 204)
    assert receiver.received == [wanted]


def test_a_receiver_that_recovers_is_asked_again(receiver: Receiver, tmp_path: Path) -> None:
    receiver.codes = [503, 500]
    keep_pending(tmp_path / "n.json", {})
    send_pending(tmp_path / "n.json", receiver.address)
    assert [code for *_, code in receiver.received] == [503, 500, 204]


def test_what_was_not_received_is_kept_for_the_next_run(receiver: Receiver, tmp_path: Path) -> None:
    receiver.codes = [500] * 3
    keep_pending(tmp_path / "n.json", {"outcome": "refused"})
    with pytest.raises(NotificationError, match="did not receive") as raised:
        send_pending(tmp_path / "n.json", receiver.address)
    assert "secret-token" not in str(raised.value)
    send_pending(tmp_path / "n.json", receiver.address)
    assert receiver.received[-1][2:] == ({"outcome": "refused"}, 204)
    assert not (tmp_path / "n.json").exists()


@pytest.mark.parametrize("url", ["ftp://host/", "hooks.example.com", "file:///etc/passwd"])
def test_only_addresses_of_http_are_accepted(url: str) -> None:
    with pytest.raises(ConfigError, match="HTTP"):
        check_address(url)
    assert check_address("https://host/x?y=z") == "https://host/x?y=z"
