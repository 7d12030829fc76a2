"""No secret of an address or of the environment stays in a text."""

import pytest

from detexport.system.redaction import public_uri, redact


@pytest.mark.parametrize(
    ("uri", "public"),
    [
        ("postgresql://u:p@host/db", "postgresql://host/db"),
        ("http://u:p@ss@host:5000", "http://host:5000"),
        ("http://bob:pa/ss@host:1/x", "http://host:1/x"),
        ("http://bob:p?w#x@host/p", "http://host/p"),
        ("http://token@host", "http://host"),
        ("http://host/?token=abc", "http://host/"),
        ("https://host/a@b", "https://host/a@b"),
        ("http://[::1]:80/a", "http://[::1]:80/a"),
        ("sqlite:////w/a@b.db", "sqlite:////w/a@b.db"),
        ("mssql+pyodbc:///?odbc_connect=PWD%3Dx", "mssql+pyodbc:///"),
        ("folder/with@sign", "folder/with@sign"),
    ],
)
def test_an_address_is_shown_without_user_password_and_query(uri: str, public: str) -> None:
    assert public_uri(uri) == public


@pytest.mark.parametrize(
    "text",
    [
        "cannot reach http://bob:p%40ss%2Fw0rd@host:5/x",
        "password p@ss/w0rd refused",
        "url: /?token=tok123/api/2.0",
        "Authorization: Basic Ym9iOnBAc3MvdzByZA==",
        "user part bob:p%40ss%2Fw0rd",
        "login with hunter22",
        "https://files.example/model.pth?sig=tok999",
    ],
)
def test_a_text_is_shown_without_the_secrets_of_the_environment(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://bob:p%40ss%2Fw0rd@host:5/?token=tok123")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter22")
    shown = redact(text)
    secrets = ("p%40ss", "p@ss", "w0rd", "tok123", "tok999", "hunter22", "Ym9iOnBAc3")
    assert not [secret for secret in secrets if secret in shown], shown
    assert shown.split()[0] in text or "https://files.example/model.pth" in shown


def test_other_text_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setenv("SHORT_TOKEN", "a")
    text = "max_detections: false alarm; a@b.c; see https://host/path and sqlite:////w/a@b.db"
    assert redact(text) == text
