"""Where the registry is: a server or database, or the SQLite file of the workspace.

It does not import MLflow, which takes seconds: `make repro` looks here at every start.
"""

import os
import re
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

DATABASE = "mlflow.db"
ADDRESS = "detexport.content_sha256"
"""Tag of a version: the digest of its content."""
VERSIONS = """
    SELECT name, version FROM model_versions JOIN model_version_tags USING (name, version)
    WHERE key = ? AND current_stage != 'Deleted_Internal'
"""
"""MLflow marks a deleted version and keeps its row."""


def find_workspace() -> Path:
    """Return the user's checkout, also if DVC runs an experiment in a clone of it.

    DVC sets ``DVC_ROOT`` to the user's checkout, and keeps its clones inside. If the current folder is not in
    such a clone, the variable is of another repository's pipeline.
    """
    here, root = Path.cwd(), os.environ.get("DVC_ROOT")
    return Path(root).resolve() if root and here.is_relative_to(Path(root).resolve() / ".dvc") else here


def own_uri(root: Path) -> str:
    """Return the tracking URI of the workspace's own store."""
    return f"sqlite:///{root / DATABASE}"


def selected_uri(root: Path, tracking_uri: str | None) -> str:
    """Return the tracking URI in use: ``MLFLOW_TRACKING_URI``, the given one, or the workspace's own."""
    given = os.environ.get("MLFLOW_TRACKING_URI", "").strip() or tracking_uri
    return absolute_uri(given, root) if given else own_uri(root)


def absolute_uri(uri: str, root: Path) -> str:
    """Return a tracking URI with a relative SQLite file or folder resolved against ``root``."""
    scheme, separator, path = uri.partition(":///")
    if separator and scheme.startswith("sqlite") and not path.startswith("/"):
        return f"{scheme}:///{root / path}"
    # A word and a colon are a scheme (http://..., databricks://..., C:\...); anything else is a folder.
    return uri if re.match(r"\w[\w+.-]*:|databricks", uri) else str(root / uri)


def own_store_has(root: Path, versions: Iterable[tuple[str, str]]) -> bool:
    """Return whether the workspace's own store has all these versions.

    False also if SQLite cannot read MLflow's tables: ask MLflow then.

    Args:
        root: the workspace.
        versions: name and number of each.
    """
    try:
        with closing(sqlite3.connect(f"{(root / DATABASE).as_uri()}?mode=ro", uri=True)) as database:
            found = {(name, str(number)) for name, number in database.execute(VERSIONS, [ADDRESS])}
    except sqlite3.Error:
        return False
    return found.issuperset(versions)
