"""``detexport doctor``: the runtimes and devices of this machine, and what installs missing ones."""

import platform
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from detexport import __version__
from detexport.benchmark.machine import describe_machine, instruction_sets
from detexport.cli.output import print_json
from detexport.runtime.probe import RuntimeStatus, probe_runtimes
from detexport.system.extras import extras, install_command, unmet


def doctor(*, as_json: bool) -> bool:
    """Print runtimes, devices and extras; see ``detexport doctor --help``.

    Returns:
        Whether every runtime that is installed can be imported.
    """
    runtimes = probe_runtimes()
    document = {
        "detexport": __version__,
        "python": platform.python_version(),
        "machine": {**describe_machine(), "instruction_sets": instruction_sets()},
        "runtimes": [asdict(runtime) for runtime in runtimes],
        "extras": {
            name: {"missing": unmet(requirements), "install": install_command([name])}
            for name, requirements in extras().items()
        },
    }
    if as_json:
        print_json(document)
    else:
        print("\n".join(_lines(document, runtimes)))
    return all(runtime.status != "broken" for runtime in runtimes)


def _lines(document: dict[str, Any], runtimes: list[RuntimeStatus]) -> Iterator[str]:
    machine = document["machine"]
    yield f"detexport {document['detexport']}, Python {document['python']}, {machine['os']}"
    yield f"CPU: {machine['cpu']}, {machine['architecture']}, {machine['cores']} cores"
    for answer, wanted in (("with", True), ("without", False)):
        names = [name for name, is_there in machine["instruction_sets"].items() if is_there is wanted]
        if names:
            yield f"  {answer:16} {', '.join(names)}"
    yield f"NVIDIA devices: {'; '.join(machine['accelerators']) or 'none'}"
    yield "runtimes"
    for runtime in runtimes:
        found = f"{runtime.version}, runs on {', '.join(runtime.devices)}"
        yield f"  {runtime.name:16} {found if runtime.status == 'usable' else runtime.status}"
        if runtime.message:
            yield f"  {'':16} {runtime.message}"
    yield "extras"
    for name, extra in document["extras"].items():
        missing = ", ".join(extra["missing"])
        yield f"  {name:16} {f'missing: {missing}' if missing else 'installed'}"
        if missing:
            yield f"  {'':16} {extra['install']}"
