"""Move the alias ``champion``, and record each decision about it.

MLflow has no lock and no compare-and-set. Instead the order of writes makes every interleaving and every
interruption end in one outcome: a version is tagged as promoted before the alias moves (it is *pending*) and as
settled afterwards, and whoever has moved the alias reads all versions again. If another version was promoted in
the meantime, the alias goes to the newest of them. So the last process to move it sees all others, and a move
that was interrupted is completed by the next call. A decision is addressed by its content: a call that repeats
one finds its run.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from detexport.errors import ConfigError
from detexport.registry.aliases import CHAMPION, Versions, move_alias, point_challenger, read_versions
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
KEY = f"{PROMOTION}key"
PROMOTED, REFUSED, UNCHANGED, ROLLBACK = "promoted", "refused", "unchanged", "rolled back"
LONGEST_TAG = 4_900
"""Maximum length of a tag's value; a server's database may hold 5,000."""


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
        """Return the decision as JSON that fits into a tag: the last reasons are left out if it does not."""
        value = self.to_json()
        while len(text := json.dumps(value)) > LONGEST_TAG and value["reasons"]:
            value["reasons"] = [*value["reasons"][:-2], "and more: see the run"][: len(value["reasons"]) - 1]
        return text


@dataclass(frozen=True)
class Promotion:
    """Promote versions in a registry, and roll back.

    Args:
        registry: the registry.
        settings: the gate's limits, the weakest validation plan, and the experiment of the decisions.
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
        if recorded and versions.champion == number:
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
        champion, before = versions.champion, _champion_before(versions)
        if champion is None or before is None:
            raise ConfigError(
                f"{name} has no earlier champion",
                got=f"version {champion}, the first" if champion else "no champion",
                expected="a version that was the champion before",
                remedy=f"`detexport promote {name} --version N` promotes another version through the gate",
            )
        decision = Decision(name, str(champion), ROLLBACK, (), {}, str(champion), str(before))
        promoted_by = versions.by_number[champion].tags.get(RUN, "")
        run = self._record(decision, {"promoted_by": promoted_by})
        self._tag(versions, champion, {ROLLED_BACK: run.info.run_id})
        after = self._move(versions, before)
        self.registry.client.set_terminated(run.info.run_id)
        return Decision(**{**asdict(decision), "reasons": (), "champion_after": str(after)})

    def _decide(self, versions: Versions, number: int) -> Decision:
        """Ask the gate about a version, record its answer, and move the alias if it passed."""
        candidate, champion = versions.by_number[number], versions.champion
        required, limits = self.settings.plan, self.settings.gate
        measured = measure(self.registry, candidate, required)
        present = measure(self.registry, versions.by_number[champion], required) if champion else None
        outcome = compare(measured, present, limits)
        decision = _decision_of(versions, number, outcome)
        evidence = [measured.evidence_sha256, present.evidence_sha256 if present else None]
        run = self._record(decision, {"evidence": evidence, "again": candidate.tags.get(ROLLED_BACK)})
        tags = {RECORD: decision.to_tag(), RUN: run.info.run_id}
        if decision.decision == REFUSED:
            promoted = candidate.tags.get(DECISION) == PROMOTED
            self._tag(versions, number, tags | ({} if promoted else {DECISION: REFUSED}))
        else:
            for tag in (SETTLED, ROLLED_BACK):
                self._untag(versions, number, tag)
            tags[BEFORE] = decision.champion_before or ""
            self._tag(versions, number, tags | {DECISION: PROMOTED})
            after = self._move(versions, number)
            decision = Decision(**{**asdict(decision), "champion_after": str(after)})
        self.registry.client.set_terminated(run.info.run_id)
        return decision

    def _complete(self, name: str) -> Versions:
        """Complete the moves that were interrupted, and return the versions."""
        point_challenger(self.registry.client, name)
        versions = read_versions(self.registry.client, name)
        pending = [number for number in _promoted(versions) if not _has(versions, number, SETTLED)]
        target = max(_promoted(versions)) if pending else versions.champion
        if not pending and target and _has(versions, target, ROLLED_BACK):
            target = _champion_before(versions) or target
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
            if not meanwhile:
                break
            target = max(meanwhile)
        self._tag(now, target, {SETTLED: "true"})
        return target

    def _record(self, decision: Decision, given: dict[str, Any]) -> Run:
        """Return the run of a decision: the one that records it already, or a new one.

        Args:
            decision: the decision.
            given: other values that tell it from the same decision at another time.
        """
        client = self.registry.client
        experiment_id = self.registry.store.other_experiment(self.settings.promotions)
        key = sha256_json({"decision": decision.to_json(), **given})
        found = self._runs_of(experiment_id, key)
        if not found:
            tags = {KEY: key, DECISION: decision.decision, f"{PROMOTION}name": decision.name}
            name = f"{decision.decision} {decision.name} version {decision.version}"
            client.create_run(experiment_id, run_name=name, tags=tags)
            found = self._runs_of(experiment_id, key)
        run, *others = found
        for other in others:  # of two processes that decided the same
            client.delete_run(other.info.run_id)
        client.log_batch(run.info.run_id, _metrics(decision), _params(decision), [RunTag(RECORD, decision.to_tag())])
        client.log_dict(run.info.run_id, decision.to_json(), "decision.json")
        return run

    def _runs_of(self, experiment_id: str, key: str) -> list[Run]:
        """Return the runs of a decision, the first one first."""
        runs = self.registry.client.search_runs([experiment_id], f"tags.`{KEY}` = '{key}'")
        return sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id))

    def _tag(self, versions: Versions, number: int, tags: dict[str, str]) -> None:
        for key, value in tags.items():
            self.registry.client.set_model_version_tag(versions.name, str(number), key, value)

    def _untag(self, versions: Versions, number: int, tag: str) -> None:
        if _has(versions, number, tag):
            self.registry.client.delete_model_version_tag(versions.name, str(number), tag)


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


def _champion_before(versions: Versions) -> int | None:
    """Return the last champion before the present one that exists and was not rolled back."""
    seen, number = {versions.champion}, versions.champion
    while number in versions.by_number:
        before = versions.by_number[number].tags.get(BEFORE) or "0"
        number = int(before)
        if number in seen:
            return None
        seen.add(number)
        if number in versions.by_number and not _has(versions, number, ROLLED_BACK):
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
