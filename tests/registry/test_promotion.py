"""The alias ``champion``: which versions get it, which do not, and what is recorded about it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
from toy_project import FULL_PLAN, folder, toy_artifact, toy_job, write_version

from detexport.errors import ConfigError
from detexport.registry.jobs import register_jobs
from detexport.registry.promotion import Decision, Promotion
from detexport.registry.registry import Registry
from detexport.registry.settings import RegistrySettings
from detexport.registry.store import open_store

pytestmark = pytest.mark.usefixtures("no_server")

NAME = "toy-onnx"
SETTINGS = RegistrySettings.of({})


def register(root: Path, number: int, settings: RegistrySettings = SETTINGS, **changes: Any) -> str:
    """Register a version with the given measurements; return its number."""
    write_version(root, number, **changes)
    (entry,) = register_jobs([toy_job(root)], workspace=root, checkout=root, settings=settings)["registered"]
    return str(entry["version"])


def promote(root: Path, version: str, settings: RegistrySettings = SETTINGS) -> Decision:
    """Decide as the stage does."""
    with open_store(root, experiment="detexport") as store:
        return Promotion(Registry(store), settings).promote_registered(NAME, version)


def by_hand(root: Path, version: str | None = None) -> Decision:
    with open_store(root, experiment="detexport") as store:
        return Promotion(Registry(store), SETTINGS).promote(NAME, version)


def rollback(root: Path) -> Decision:
    with open_store(root, experiment="detexport") as store:
        return Promotion(Registry(store), SETTINGS).rollback(NAME)


def client(root: Path) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(f"sqlite:///{root / 'mlflow.db'}")


def champion(root: Path) -> str | None:
    found = client(root).get_registered_model(NAME).aliases.get("champion")
    return str(found) if found else None


def decisions(root: Path) -> list[Any]:
    experiment = client(root).get_experiment_by_name("detexport-promotions")
    return list(client(root).search_runs([experiment.experiment_id], order_by=["attributes.start_time"]))


def tags(root: Path, version: str) -> dict[str, str]:
    return dict(client(root).get_model_version(NAME, version).tags)


def test_the_first_version_becomes_the_champion(root: Path) -> None:
    decision = promote(root, register(root, 1))
    assert (decision.decision, decision.champion_before, decision.champion_after) == ("promoted", None, "1")
    assert decision.numbers["ap_box"] == {"candidate": 0.7, "champion": None, "limit": None}
    assert champion(root) == "1"
    # Again, as in the next run of a pipeline: the same answer, and no other run.
    assert promote(root, "1") == decision
    (run,) = decisions(root)
    assert (run.info.status, run.data.params["decision"]) == ("FINISHED", "promoted")
    assert run.data.metrics == {"candidate/ap_box": 0.7, "candidate/latency_cpu_p50_ms": 5.0}
    assert tags(root, "1")["promotion.run_id"] == run.info.run_id


def test_a_version_within_the_limits_follows(root: Path) -> None:
    promote(root, register(root, 1))
    decision = promote(root, register(root, 2, p50_ms=5.9, ap=0.696))
    assert (decision.decision, decision.champion_before, decision.champion_after) == ("promoted", "1", "2")
    assert decision.numbers["latency_cpu_p50_ms"] == {"candidate": 5.9, "champion": 5.0, "limit": 6.0}
    assert champion(root) == "2"
    assert json.loads(tags(root, "2")["promotion.record"])["numbers"] == decision.numbers


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"p50_ms": 6.1}, "latency_cpu_p50_ms 6.1 is above the limit 6; version 1 has 5"),
        ({"ap": 0.694}, "ap_box 0.6940 is below the limit 0.695; version 1 has 0.7"),
        ({"machine": "another"}, "another kind of machine than version 1's: cpu another, not toy"),
    ],
    ids=["slower", "less-accurate", "other-machine"],
)
def test_a_refusal_is_recorded_with_its_numbers(root: Path, changes: dict[str, Any], reason: str) -> None:
    promote(root, register(root, 1))
    version = register(root, 2, **changes)
    decision = promote(root, version)
    assert promote(root, version) == decision
    assert decision.decision == "refused"
    assert reason in decision.reasons[0]
    assert champion(root) == "1"
    assert client(root).get_registered_model(NAME).aliases["challenger"] == 2
    _, run = decisions(root)
    assert run.data.params["decision"] == "refused"
    assert run.data.metrics["champion/ap_box"] == 0.7
    assert json.loads(tags(root, "2")["promotion.record"])["reasons"] == list(decision.reasons)


def test_latency_of_another_machine_is_left_out_on_request(root: Path) -> None:
    promote(root, register(root, 1))
    settings = RegistrySettings.of({"gate": {"same_machine": False}})
    decision = promote(root, register(root, 2, p50_ms=50.0, machine="another"), settings)
    assert decision.decision == "promoted"
    assert "another kind of machine" in decision.reasons[0]


def test_a_weaker_plan_is_refused(root: Path) -> None:
    promote(root, register(root, 1))
    weaker = replace(FULL_PLAN, images=4)
    lowered = replace(SETTINGS, plan=replace(SETTINGS.plan, images=4))
    version = register(root, 2, lowered, plan=weaker)
    decision = promote(root, version)
    assert decision.reasons == (
        "the validation plan is weaker than registry.plan: images: 4, required at least 8",
    )
    assert champion(root) == "1"


def test_changed_evidence_is_refused(root: Path) -> None:
    version = register(root, 1)
    run_id = client(root).get_model_version(NAME, version).run_id
    path = Path(client(root).get_run(run_id).info.artifact_uri.removeprefix("file://"))
    for name, reason in {
        "latency.json": "its certificate or its latency is not the one that was registered",
        "parity.json": "the certificate is about another verdict",
        "certificate.json": "was edited",
    }.items():
        text = (path / name).read_text()
        (path / name).write_text(text.replace("7", "8"))
        decision = promote(root, version)
        assert decision.decision == "refused"
        assert reason in " ".join(decision.reasons)
        (path / name).unlink()
        assert f"no {name} in the run" in promote(root, version).reasons[0]
        (path / name).write_text(text)
    assert champion(root) is None
    assert promote(root, version).decision == "promoted"


def test_a_changed_artifact_is_refused(root: Path) -> None:
    version = register(root, 1)
    model = next((root / "mlartifacts" / "models").glob("*/artifacts/artifacts/onnx/model.onnx"))
    model.write_bytes(model.read_bytes() + b"\0")
    assert "is not the file that was exported" in promote(root, version).reasons[0]
    # Another artifact as a whole, which is consistent in itself.
    write_version(root, 2)
    assert toy_artifact(root).weights_sha256 != f"{1:064x}"
    shutil.rmtree(model.parent)
    shutil.copytree(folder(root) / "artifacts" / "onnx", model.parent)
    reasons = promote(root, version).reasons
    assert "its files are another artifact" in reasons[0]
    assert "the certificate is about another artifact" in reasons[1]
    assert champion(root) is None


def test_changed_code_is_refused(root: Path) -> None:
    version = register(root, 1)
    path = next(root.glob("mlartifacts/models/*/artifacts/code/detexport/processing/postprocess.py"))
    path.write_text(path.read_text() + "# changed\n")
    assert "changed: code/detexport/processing/postprocess.py" in promote(root, version).reasons[0]
    assert champion(root) is None


def test_rollback_and_what_it_means_for_the_next_run(root: Path) -> None:
    for number in (1, 2, 3):
        assert promote(root, register(root, number)).decision == "promoted"
    decision = rollback(root)
    assert (decision.decision, decision.champion_before, decision.champion_after) == ("rolled back", "3", "2")
    assert champion(root) == "2"
    # The pipeline, which still makes version 3, does not undo it; a user does.
    again = promote(root, "3")
    assert (again.decision, again.champion_after) == ("unchanged", "2")
    assert "rolled back; `detexport promote toy-onnx --version 3`" in again.reasons[0]
    assert by_hand(root).decision == "promoted"
    assert champion(root) == "3"
    assert [rollback(root).champion_after, rollback(root).champion_after] == ["2", "1"]
    with pytest.raises(ConfigError, match="no earlier champion"):
        rollback(root)
    assert promote(root, register(root, 4)).champion_after == "4"
    assert rollback(root).champion_after == "1"
    kinds = [run.data.params["decision"] for run in decisions(root)]
    assert kinds == [
        *["promoted"] * 3,
        "rolled back",
        "promoted",
        *["rolled back"] * 2,
        "promoted",
        "rolled back",
    ]


def test_an_older_version_does_not_return_by_itself(root: Path) -> None:
    promote(root, register(root, 1))
    promote(root, register(root, 2))
    assert register(root, 1) == "1"
    assert promote(root, "1").reasons == ("version 2, the champion, is newer",)
    assert by_hand(root, "1").champion_after == "1"
    # Nor does the newer one push it away again.
    assert promote(root, "2").reasons == ("the alias was taken off it by hand",)
    assert champion(root) == "1"


def test_an_unknown_name_or_version_is_reported(root: Path) -> None:
    register(root, 1)
    with pytest.raises(ConfigError, match="toy-onnx has no version 7"):
        by_hand(root, "7")
    with (
        pytest.raises(ConfigError, match=r"no version of toy-tnnx.*toy-onnx"),
        open_store(root, experiment="detexport") as store,
    ):
        Promotion(Registry(store), SETTINGS).promote("toy-tnnx")


def test_a_replaced_champion_passes_its_decisions_on(root: Path) -> None:
    promote(root, register(root, 1))
    shutil.rmtree(root / "mlartifacts" / "models")
    assert register(root, 1) == "2"
    assert champion(root) == "2"
    assert promote(root, "2").decision in ("promoted", "unchanged")
    assert champion(root) == "2"
