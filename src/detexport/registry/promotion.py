"""Move the alias ``champion``, and record each decision about it.

MLflow has no lock and no compare-and-set. Instead the order of writes makes every interleaving and every
interruption end in one outcome. A version is tagged as promoted before the alias moves and as settled
afterwards; in between the move is pending. Whoever has moved the alias reads all versions again: if others
were promoted in the meantime, the alias goes to the newest of them. So the last process to move it sees all
others, and the next call completes a move that was interrupted. A decision is addressed by its content: a
call that repeats one finds its run.
"""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from mlflow.entities import Metric, Param, Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from detexport.errors import ConfigError, shortened
from detexport.registry.aliases import CHAMPION, Versions, move_alias, point_challenger, read_versions, write
from detexport.registry.gate import Outcome, compare, measure
from detexport.registry.registry import PROMOTION, Registry
from detexport.registry.settings import RegistrySettings
from detexport.system.digests import sha256_json

DECISION = f"{PROMOTION}decision"
RECORD = f"{PROMOTION}record"
BEFORE = f"{PROMOTION}champion_before"
SETTLED = f"{PROMOTION}settled"
ROLLED_BACK = f"{PROMOTION}rolled_back"
RUN = f"{PROMOTION}run_id"
NAME = f"{PROMOTION}name"
KEY = f"{PROMOTION}key"
PROMOTED, REFUSED, UNCHANGED, ROLLBACK = "promoted", "refused", "unchanged", "rolled back"
LONGEST_TAG = 4_900
"""Maximum length of a tag's value; a server's database may hold 5,000."""
LONGEST_REASON = 500


@dataclass(frozen=True)
class Decision:
    """A decision about ``champion``.

    Args:
        name: the registered model.
        version: the version that it is about.
        decision: ``"promoted"``, ``"refused"``, ``"unchanged"`` or ``"rolled back"``.
        reasons: why it was not promoted; or what was not compared.
        numbers: metrics of the candidate and the champion with the limit, by name.
        champion_before: the version that was the champion; None if there was none.
        champion_after: the champion's version after the decision.
    """

    name: str
    version: str
    decision: str
    reasons: tuple[str, ...] = ()
    numbers: dict[str, dict[str, float | None]] = field(default_factory=dict)
    champion_before: str | None = None
    champion_after: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the decision as plain JSON values."""
        return {**asdict(self), "reasons": list(self.reasons)}

    def to_tag(self) -> str:
        """Return the decision as JSON that fits into a tag: of many or long reasons the first, shortened."""
        text = json.dumps(self.to_json())
        if len(text) <= LONGEST_TAG:
            return text
        first = shortened(self.reasons[0], LONGEST_REASON)
        return json.dumps(self.to_json() | {"reasons": [first, "others: see the run"]})


@dataclass(frozen=True)
class Promotion:
    """Promote versions in a registry, and roll back.

    Args:
        registry: the registry.
        settings: the limits of a promotion, the weakest validation plan, and the experiment of the decisions.
    """

    registry: Registry
    settings: RegistrySettings

    def promote_registered(self, name: str, version: str) -> Decision:
        """Decide about the version that a pipeline registered.

        A decision that was carried out is returned again. A version that is older than the champion, was
        rolled back, or lost the alias by hand does not get it back.
        """
        versions = self._complete(name)
        number = int(version)
        reason = _why_unchanged(versions, number)
        if reason is None:
            return self._decide(versions, number)
        recorded = _recorded(versions.by_number.get(number))
        if recorded and recorded.decision == PROMOTED and versions.champion == number:
            return recorded
        champion = str(versions.champion) if versions.champion else None
        return Decision(name, version, UNCHANGED, (reason,), {}, champion, champion)

    def promote(self, name: str, version: str | None = None) -> Decision:
        """Decide about a version that a user names: the newest, or ``version``, also one that is older.

        Raises:
            ConfigError: the registry has no such version.
        """
        versions = self._complete(name)
        number = versions.newest if version is None else _existing(versions, version)
        if versions.champion == number:
            same = str(number)
            return Decision(name, same, UNCHANGED, ("it is the champion already",), {}, same, same)
        return self._decide(versions, number)

    def rollback(self, name: str) -> Decision:
        """Move ``champion`` back to the version that had it before, without comparing them.

        Raises:
            ConfigError: there is no champion, or none before it.
        """
        versions = self._complete(name)
        champion = versions.champion
        before = _champion_before(versions, champion) if champion else None
        if champion is None or before is None:
            raise ConfigError(
                f"{name} has no earlier champion",
                got=f"version {champion}, the first" if champion else "no champion",
                expected="a version that was the champion before",
                remedy=f"`detexport promote {name} --version N` promotes another version through the gate",
            )
        decision = Decision(name, str(champion), ROLLBACK, (), {}, str(champion), str(before))
        key = self._open_run(decision, {"promoted_by": versions.by_number[champion].tags.get(KEY)})
        self._tag(versions, champion, {ROLLED_BACK: key})
        decision = replace(decision, champion_after=str(self._move(versions, before)))
        self._close_run(decision, key)
        return decision

    def _decide(self, versions: Versions, number: int) -> Decision:
        """Decide about a version by the promotion gate, record it, and move the alias if it passed."""
        candidate, champion = versions.by_number[number], versions.champion
        required, limits = self.settings.plan, self.settings.gate
        measured = measure(self.registry, candidate, required)
        present = measure(self.registry, versions.by_number[champion]) if champion else None
        outcome = compare(measured, present, limits)
        decision = _decision_of(versions, number, outcome)
        evidence = [measured.evidence_sha256, present.evidence_sha256 if present else None]
        # The champion's last decision: the same promotion after another one is another decision.
        since = versions.by_number[champion].tags.get(KEY) if champion else None
        given = {"evidence": evidence, "since": since, "after": candidate.tags.get(ROLLED_BACK)}
        key = self._open_run(decision, given)
        if decision.decision == REFUSED:
            once = {} if number in _promoted(versions) else {DECISION: REFUSED}
            self._tag(versions, number, {RECORD: decision.to_tag(), KEY: key, **once})
        else:
            self._untag(versions, number, SETTLED, ROLLED_BACK)
            before = {BEFORE: decision.champion_before or ""}
            self._tag(versions, number, {RECORD: decision.to_tag(), KEY: key, **before, DECISION: PROMOTED})
            decision = replace(decision, champion_after=str(self._move(versions, number)))
        self._close_run(decision, key)
        return decision

    def _complete(self, name: str) -> Versions:
        """Complete the moves that were interrupted, and return the versions."""
        point_challenger(self.registry.client, name)
        versions = read_versions(self.registry.client, name)
        pending = [number for number in _promoted(versions) if not _has(versions, number, SETTLED)]
        target = max(_promoted(versions)) if pending else versions.champion
        if not pending and target and _has(versions, target, ROLLED_BACK):
            target = _champion_before(versions, target) or target
        if pending or target != versions.champion:
            assert target is not None
            self._move(versions, target)
            for number in pending:
                self._tag(versions, number, {SETTLED: "true"})
            versions = read_versions(self.registry.client, name)
        return versions

    def _move(self, before: Versions, target: int) -> int:
        """Put ``champion`` on a version, or on a newer one that was promoted at the same time; return which.

        Args:
            before: the versions before the decision: what was settled then is not newer than the decision.
            target: number of the version.
        """
        client, name = self.registry.client, before.name
        while True:
            move_alias(client, name, CHAMPION, str(target))
            now = read_versions(client, name)
            meanwhile = [
                number
                for number in _promoted(now)
                if number > target and not (number in before.by_number and _has(before, number, SETTLED))
            ]
            if meanwhile:
                target = max(meanwhile)
            elif _has(now, target, ROLLED_BACK) and (earlier := _champion_before(now, target)):
                target = earlier
            else:
                self._tag(now, target, {SETTLED: "true"})
                return target

    def _open_run(self, decision: Decision, given: dict[str, Any]) -> str:
        """Create the run of a decision unless there is one; return the key by which it is found.

        Args:
            decision: the decision.
            given: other values that tell it from the same decision at another time.
        """
        key = sha256_json({"decision": decision.to_json(), **given})
        if not self._runs_of(key):
            self.registry.client.create_run(
                self._experiment_id,
                run_name=f"{decision.decision} {decision.name} version {decision.version}",
                tags={KEY: key, DECISION: decision.decision, NAME: decision.name},
            )
        return key

    def _close_run(self, decision: Decision, key: str) -> None:
        """Complete the run of a decision that was carried out.

        Of several runs, which processes created at the same time, the first one stays.
        """
        client = self.registry.client
        run, *others = self._runs_of(key)
        for other in others:
            with suppress(MlflowException):  # another process was faster
                client.delete_run(other.info.run_id)
        write(client.log_batch, run.info.run_id, _metrics(decision), _params(decision))
        client.log_dict(run.info.run_id, decision.to_json(), "decision.json")
        client.set_terminated(run.info.run_id)
        write(client.set_model_version_tag, decision.name, decision.version, RUN, run.info.run_id)

    @property
    def _experiment_id(self) -> str:
        return self.registry.store.other_experiment(self.settings.promotions)

    def _runs_of(self, key: str) -> list[Run]:
        """Return the runs of a decision, the first one first."""
        runs = self.registry.client.search_runs([self._experiment_id], f"tags.`{KEY}` = '{key}'")
        return sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id))

    def _tag(self, versions: Versions, number: int, tags: dict[str, str]) -> None:
        for key, value in tags.items():
            write(self.registry.client.set_model_version_tag, versions.name, str(number), key, value)

    def _untag(self, versions: Versions, number: int, *tags: str) -> None:
        for tag in tags:
            if _has(versions, number, tag):
                write(self.registry.client.delete_model_version_tag, versions.name, str(number), tag)


def _decision_of(versions: Versions, number: int, outcome: Outcome) -> Decision:
    before = str(versions.champion) if versions.champion else None
    refused = bool(outcome.reasons)
    return Decision(
        versions.name,
        str(number),
        REFUSED if refused else PROMOTED,
        (*outcome.reasons, *outcome.notes),
        outcome.numbers,
        before,
        before if refused else str(number),
    )


def _why_unchanged(versions: Versions, number: int) -> str | None:
    """Return why a pipeline's version is not decided about; None if it is."""
    if number not in versions.by_number:
        return "the version was replaced or deleted in the meantime"
    if versions.champion == number:
        return "it is the champion already"
    if _has(versions, number, ROLLED_BACK):
        return f"it was rolled back; `detexport promote {versions.name} --version {number}` promotes it again"
    if versions.champion and versions.champion > number:
        return f"version {versions.champion}, the champion, is newer"
    if number in _promoted(versions):
        return "the alias was taken off it by hand"
    return None


def _champion_before(versions: Versions, number: int) -> int | None:
    """Return the last champion before a version that still exists and was not rolled back."""
    seen: set[int] = set()
    while number in versions.by_number and number not in seen:
        seen.add(number)
        number = int(versions.by_number[number].tags.get(BEFORE) or 0)
        if number in versions.by_number and number not in seen and not _has(versions, number, ROLLED_BACK):
            return number
    return None


def _promoted(versions: Versions) -> list[int]:
    """Return the versions that were promoted and not rolled back."""
    return [
        number
        for number, version in versions.by_number.items()
        if version.tags.get(DECISION) == PROMOTED and ROLLED_BACK not in version.tags
    ]


def _has(versions: Versions, number: int, tag: str) -> bool:
    return number in versions.by_number and tag in versions.by_number[number].tags


def _recorded(version: ModelVersion | None) -> Decision | None:
    """Return the decision that a version's tag records; None if there is none."""
    record = version.tags.get(RECORD) if version else None
    if not record:
        return None
    value = json.loads(record)
    return Decision(**{**value, "reasons": tuple(value["reasons"])})


def _existing(versions: Versions, version: str) -> int:
    """Return the number of a version that a user named."""
    if not version.isdigit() or int(version) not in versions.by_number:
        raise ConfigError(
            f"{versions.name} has no version {version}",
            got=version,
            expected=", ".join(map(str, sorted(versions.by_number))),
            remedy="name one of these",
        )
    return int(version)


def _metrics(decision: Decision) -> list[Metric]:
    return [
        Metric(f"{side}/{name}", value, timestamp=0, step=0)
        for name, sides in decision.numbers.items()
        for side, value in sides.items()
        if value is not None
    ]


def _params(decision: Decision) -> list[Param]:
    values = {
        "name": decision.name,
        "version": decision.version,
        "decision": decision.decision,
        "champion_before": decision.champion_before or "none",
    }
    return [Param(name, value) for name, value in values.items()]
