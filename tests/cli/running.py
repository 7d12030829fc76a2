"""What the tests of the command line call."""

import subprocess
from collections.abc import Callable

Run = Callable[..., subprocess.CompletedProcess[str]]
"""``detexport`` with arguments, and environment variables as keywords: the fixture ``run``."""
