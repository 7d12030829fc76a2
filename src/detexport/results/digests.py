"""The digests of each job's results, one small file per job, which the stages over all jobs depend on."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from detexport.system.digests import sha256_tree
from detexport.system.files import remove_others, write_json


def write_digests(results: Sequence[Path], path: Path) -> None:
    """Write the SHA-256 digest of each file and folder of ``results`` to ``path``."""
    write_json(path, {result.as_posix(): sha256_tree(result) for result in results})


def remove_other_jobs(folder: Path, jobs: Iterable[str]) -> None:
    """Remove the digests of jobs that are no longer selected.

    A stage that depends on ``folder`` then depends on its own jobs alone, here and in a clone.
    """
    remove_others(folder, {f"{job}.json" for job in jobs})
