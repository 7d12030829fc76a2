"""``MLFLOW_TRACKING_URI`` of any content: a store, or one line that says why there is none."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detexport.registry.store import RegistryError, open_store
from fuzzing import check, fuzzed

# None of them reaches a server, or a file outside the workspace.
BEGINNINGS = st.sampled_from(
    [
        *(
            "nosuch://",
            "http://[",
            "https://127.0.0.1:99999/",
            "http://127.0.0.1:1/",
            "http://",
            "sqlite://host/",
        ),
        *("postgresql://", "mysql+nodriver://", "databricks-uc:", "C:", "s3:", "://"),
    ]
)
PARTS = st.text(
    st.characters(exclude_characters="\0/", exclude_categories=("Cs",)), max_size=20
) | st.sampled_from([*"@:?#[]&;=%", "[::1", "user:pass@", "%ZZ", "a" * 3000, "\udcff"])


def test_addresses_of_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def use() -> None:
        with open_store(tmp_path, experiment="e"):
            pass

    @fuzzed(40)
    @given(BEGINNINGS, st.lists(PARTS, max_size=4))
    def property_of(beginning: str, parts: list[str]) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", beginning + "".join(parts))
        check(use, RegistryError)

    property_of()
