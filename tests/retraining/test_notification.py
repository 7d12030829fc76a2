"""Notifications over HTTP on the loopback interface."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from receiver import REDIRECT, Receiver, listening

from detexport.errors import ConfigError
from detexport.retraining import notification
from detexport.retraining.notification import NotificationError, check_address, keep_pending, send_pending


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setattr(notification, "WAITS_S", (0.01, 0.01))
    with listening() as server:
        yield server


def test_a_summary_is_received_once(receiver: Receiver, tmp_path: Path) -> None:
    send_pending(tmp_path / "pending", receiver.address)
    assert receiver.received == []
    keep_pending(tmp_path, {"outcome": "promoted"})
    for _ in range(2):
        send_pending(tmp_path, receiver.address)
    wanted = ("/secret-path?token=secret-token", "application/json", {"outcome": "promoted"}, 204)
    assert receiver.received == [wanted]


def test_a_receiver_that_recovers_is_asked_again(receiver: Receiver, tmp_path: Path) -> None:
    receiver.codes = [503, 500]
    keep_pending(tmp_path, {})
    send_pending(tmp_path, receiver.address)
    assert [code for *_, code in receiver.received] == [503, 500, 204]


def test_what_was_not_received_is_kept_for_the_next_run(receiver: Receiver, tmp_path: Path) -> None:
    receiver.codes = [500] * 3
    keep_pending(tmp_path, {"outcome": "refused"})
    with pytest.raises(NotificationError, match="did not receive") as raised:
        send_pending(tmp_path, receiver.address)
    assert "secret" not in str(raised.value)
    keep_pending(tmp_path, {"outcome": "promoted"})
    send_pending(tmp_path, receiver.address)
    sent = [(body["outcome"], code) for *_, body, code in receiver.received[3:]]
    assert sent == [("refused", 204), ("promoted", 204)]
    assert list(tmp_path.iterdir()) == []


def test_a_redirect_is_not_a_receipt(receiver: Receiver, tmp_path: Path) -> None:
    receiver.codes = [REDIRECT] * 3
    keep_pending(tmp_path, {})
    with pytest.raises(NotificationError, match="302"):
        send_pending(tmp_path, receiver.address)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/secret",
        "hooks.example.com/secret",
        "file:///etc/passwd",
        "http://[x/secret",
        "http:///secret",
        "http://host:port/secret",
        "https://user:secret@host/",
        "https://host/secret/\u00fc",
        "https://host/a secret",
    ],
)
def test_only_addresses_of_http_are_accepted(url: str) -> None:
    with pytest.raises(ConfigError, match="HTTP") as raised:
        check_address(url)
    assert "secret" not in str(raised.value)


def test_an_address_of_http_is_returned() -> None:
    assert check_address("https://host:8443/x?y=z") == "https://host:8443/x?y=z"
