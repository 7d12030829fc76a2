"""A Dockerfile for an artifact, and the packages of its image."""

import json
import re
from collections.abc import Iterable, Sequence

from detexport.artifact import Format
from detexport.errors import MissingPackageError
from detexport.runtime import DEFAULT_ENGINES
from detexport.serving.kserve import PORT
from detexport.system.class_source import required_packages
from detexport.system.extras import DISTRIBUTION, base_requirements, extras, install_command
from detexport.system.versions import pinned

USER = 10001


def requirements(artifact_format: Format, own: Iterable[str] = ()) -> list[str]:
    """Return the exact versions of the packages of an image.

    Args:
        artifact_format: format of the artifact.
        own: requirements of a registered version, which are kept; by default the packages of the format's
            runtime as they are installed. Those of the server and the command line are added as installed.

    Raises:
        MissingPackageError: detexport is not installed, so that the versions are unknown.
    """
    kept = [line.strip() for line in own if line.strip() and not line.startswith("#")]
    names = {_canonical(re.split(r"[=<>~!\[; ]", line, maxsplit=1)[0]) for line in kept}
    installed = extras()
    if "serving" not in installed:
        raise MissingPackageError(
            "the requirements of the server are unknown",
            got=f"a {DISTRIBUTION} that is not installed, or an older one",
            remedy=install_command(["serving"]),
        )
    wanted = [*base_requirements(), *installed["serving"]]
    if not kept:
        # A runtime's extra has the name of its engine's package.
        wanted += installed[required_packages(DEFAULT_ENGINES[artifact_format])[0]]
    added = {_canonical(one.name): one.name for one in wanted if _canonical(one.name) not in names}
    return sorted([*kept, *map(pinned, added.values())], key=str.lower)


def dockerfile(python: str, options: Sequence[str], *, image: str, shutdown_s: int) -> str:
    """Return a Dockerfile; its context holds ``requirements.txt``, ``code`` and ``model``.

    Args:
        python: version of Python, ``3.11``.
        options: options of ``detexport serve``.
        image: name of the image, for the comment that says how to build it.
        shutdown_s: time in which accepted requests are finished after SIGTERM.
    """
    command = [
        *("python", "-m", "detexport.cli", "serve", "model", "--host", "0.0.0.0", "--port", str(PORT)),
        *("--shutdown-timeout", str(shutdown_s), *options),
    ]
    check = f"import urllib.request as r; r.urlopen('http://127.0.0.1:{PORT}/health', timeout=5)"
    return f"""\
# docker build -t {image} . && docker run --rm -p {PORT}:{PORT} {image}
FROM python:{python}-slim
WORKDIR /srv
COPY requirements.txt ./
RUN pip install --no-cache-dir -r requirements.txt
COPY code ./code
COPY model ./model
ENV PYTHONPATH=/srv/code PYTHONUNBUFFERED=1
USER {USER}
EXPOSE {PORT}
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=60s CMD {json.dumps(["python", "-c", check])}
ENTRYPOINT {json.dumps(command)}
"""


def _canonical(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()
