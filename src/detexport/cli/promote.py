"""``detexport promote`` and ``detexport rollback``: move the alias ``champion`` of a registered model."""

from collections.abc import Iterator

from detexport.cli.output import print_json
from detexport.errors import escaped
from detexport.registry.promotion import Decision
from detexport.workflows.promote import promote as promote_version
from detexport.workflows.promote import rollback as roll_back


def promote(name: str, *, version: str | None, as_json: bool) -> bool:
    """Decide about a version and show the decision; return False if it was refused."""
    decision = promote_version(name, version)
    show(decision, as_json=as_json)
    return decision.decision != "refused"


def rollback(name: str, *, as_json: bool) -> None:
    """Move the alias back and show the decision."""
    show(roll_back(name), as_json=as_json)


def show(decision: Decision, *, as_json: bool) -> None:
    """Print a decision."""
    if as_json:
        print_json(decision.to_json())
    else:
        print("\n".join(map(escaped, _describe(decision))))


def _describe(decision: Decision) -> Iterator[str]:
    yield f"{decision.name} version {decision.version}: {decision.decision}"
    yield from (f"  {reason}" for reason in decision.reasons)
    if decision.numbers:
        yield f"  {'':22}{'candidate':>11}{'champion':>11}{'limit':>11}"
    for name, sides in decision.numbers.items():
        yield f"  {name:22}" + "".join(f"{_number(value):>11}" for value in sides.values())
    yield f"champion: {_version(decision.champion_before)} before, {_version(decision.champion_after)} now"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _version(number: str | None) -> str:
    return f"version {number}" if number else "none"
