import os
import subprocess
import sys
from pathlib import Path

import pytest
from running import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """``detexport`` in a process of its own, in an empty folder."""

    def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "detexport.cli", *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    return run
