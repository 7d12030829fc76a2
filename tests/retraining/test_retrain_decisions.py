"""The decisions of one run, with a pipeline that does nothing; test_retrain.py and test_faults.py run one."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from detexport.errors import DetexportError
from detexport.registry.champions import Champion
from detexport.retraining import champions
from detexport.retraining.champions import Comparison
from detexport.retraining.notification import NotificationError
from detexport.retraining.pipeline import Pipeline, PipelineError, Refusal
from detexport.retraining.retrain import DATA_STAGE, DECISIONS, RECEIPTS, STATE, STATISTICS, Options, _Run
from detexport.retraining.summary import Summary
from detexport.system.files import read_json, write_json

SPLIT = {"images": 9, "images_without_labels": 0, "boxes_outside": 0, "boxes_outside_ids": []}
LABELS = {"cat": 5, "dog": 4}
PROMOTED = {
    "name": "a",
    "version": "8",
    "decision": "promoted",
    "reasons": [],
    "champion_before": "7",
    "champion_after": "8",
}


def champion(version: str) -> Champion:
    return Champion("a", version, 1, "", (), {"train": SPLIT | {"labels": LABELS}}, "id")


@dataclass
class FakePipeline:
    """A pipeline whose last stages write decisions."""

    root: Path
    decisions: list[dict[str, Any]] | None = None
    refusal: Refusal | None = None
    error: Exception | None = None
    targets: list[tuple[str, ...]] = field(default_factory=list)

    def preflight(self) -> None: ...

    def stale(self) -> list[str]:
        return ["export"]

    def repro(self, *targets: str, **_: Any) -> Refusal | None:
        self.targets.append(targets)
        if targets == (DATA_STAGE,):
            return None
        if self.error:
            raise self.error
        if targets:
            return None
        if self.decisions is not None:
            write_json(DECISIONS, {"decisions": self.decisions})
        return self.refusal


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePipeline:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("retraining: {}\njobs: {a: {}, b: {}}\n")
    set_data("first", LABELS)
    set_champions(monkeypatch, *"7777")
    monkeypatch.setattr(champions, "compare_reexports", lambda _: {})
    return FakePipeline(tmp_path)


def set_data(md5: str, labels: Mapping[str, int]) -> None:
    write_json(STATISTICS, {"train": SPLIT | {"labels": labels}})
    deps = [{"path": "data/toy", "md5": md5}]
    Path("dvc.lock").write_text(yaml.safe_dump({"stages": {DATA_STAGE: {"deps": deps}}}))


def set_champions(monkeypatch: pytest.MonkeyPatch, *versions: str) -> None:
    """Set the champion's version at each time that the registry is read."""
    read: Iterator[str] = iter(versions)
    monkeypatch.setattr(champions, "champions_of_jobs", lambda: {"a": champion(next(read))})


def run(pipeline: FakePipeline, **options: Any) -> Summary:
    one = _Run(cast(Pipeline, pipeline), Options(fetch=False, push=False, **options))
    try:
        one.execute()
    except DetexportError as error:
        one.fail(error)
    one.report()
    return one.summary


def test_a_promotion_beside_a_refusal_is_partly_promoted(
    pipeline: FakePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_champions(monkeypatch, "7", "8")
    write_json(RECEIPTS, {"refused": [{"job": "b", "reasons": ["a box differs"]}]})
    pipeline.decisions, pipeline.refusal = [PROMOTED], Refusal("gate", "b: a box differs")
    found = run(pipeline)
    assert (found.outcome, found.exit_code, found.reasons) == ("partly promoted", 1, ["b: a box differs"])


@pytest.mark.parametrize("decision", ["promoted", "refused"])
def test_decisions_of_the_past_are_not_reported(pipeline: FakePipeline, decision: str) -> None:
    write_json(DECISIONS, {"decisions": [PROMOTED | {"decision": decision, "reasons": ["slow"]}]})
    found = run(pipeline)
    assert (found.outcome, found.decisions) == ("unchanged", [])


def test_a_promotion_that_was_revoked_is_not_reported(pipeline: FakePipeline) -> None:
    """After a rollback the stage may repeat its decision, while the alias is on another version."""
    pipeline.decisions = [dict(PROMOTED)]
    found = run(pipeline)
    assert (found.outcome, found.exit_code) == ("unchanged", 0)
    assert [one["decision"] for one in found.decisions] == ["unchanged"]


def test_accepted_data_are_accepted_alone(pipeline: FakePipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    set_champions(monkeypatch, *"777777")
    worse = {"cat": 9, "dog": 0}
    set_data("second", worse)
    assert run(pipeline).exit_code == 1
    pipeline.error = PipelineError("the disk is full")
    assert run(pipeline, accept_data=True).exit_code == 3
    assert read_json(STATE)["accepted_data"] == "second"
    assert run(pipeline).exit_code == 3, "the same data are still accepted"
    set_data("third", worse)
    found = run(pipeline)
    assert (found.outcome, found.exit_code) == ("refused", 1)


def test_a_reexport_that_differs_is_refused_or_accepted(
    pipeline: FakePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(champions, "compare_reexports", lambda _: {"a": Comparison(("3 px",))})
    found = run(pipeline)
    assert (found.outcome, found.parity, pipeline.targets[-1]) == (
        "refused",
        {"a": "differs"},
        ("metrics@a", "metrics@b"),
    )
    found = run(pipeline, accept_reexport=True)
    assert (found.outcome, found.parity, pipeline.targets[-1]) == ("unchanged", {"a": "accepted"}, ())
    assert found.reasons[0].startswith(
        "accepted: a: the new artifact differs from the champion's (version 7, "
    )


def test_a_champion_that_cannot_be_run_does_not_block(
    pipeline: FakePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    unread = Comparison(not_compared="it was compiled by another version of torch")
    monkeypatch.setattr(champions, "compare_reexports", lambda _: {"a": unread})
    found = run(pipeline)
    assert (found.exit_code, found.parity, pipeline.targets[-1]) == (0, {"a": "not compared"}, ())
    assert "another version of torch" in found.reasons[0]


def test_the_summary_has_the_exit_code_of_a_lost_notification(
    pipeline: FakePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(*_: Any) -> None:
        raise NotificationError("not received")

    monkeypatch.setattr("detexport.retraining.retrain.send_pending", lose)
    with pytest.raises(NotificationError):
        run(pipeline, notify="https://host/")
    found = read_json(Path("reports/retraining.json"))
    assert (found["outcome"], found["exit_code"], found["reasons"]) == ("unchanged", 3, ["not received"])
