"""A training is one MLflow run, whatever kills it, and the versions of its weights are its children."""

from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.entities import Run
from toy_project import toy_artifact, toy_job

from detexport.registry.jobs import register_jobs
from detexport.registry.settings import RegistrySettings
from detexport.registry.store import open_store
from detexport.registry.training_run import PARENT, TRAINED_WEIGHTS, TrainingRun


@pytest.fixture(autouse=True)
def _own_store(no_server: None) -> None:
    pass


def training(root: Path, key: str = "k") -> TrainingRun:
    return TrainingRun(
        root, RegistrySettings.of({}), "toy", key, {"iterations": 4, "steps": list(range(900))}
    )


def runs(root: Path) -> list[Run]:
    with open_store(root, experiment="detexport") as store:
        return list(mlflow.MlflowClient().search_runs([store.experiment_id]))


def history(root: Path, name: str) -> list[tuple[int, float]]:
    (run,) = runs(root)
    with open_store(root, experiment="detexport"):
        found = mlflow.MlflowClient().get_metric_history(run.info.run_id, name)
    return [(metric.step, metric.value) for metric in found]


def values(*steps: int) -> list[tuple[int, dict[str, float]]]:
    return [(step, {"loss": 1.0 / step, "loss_cls": 0.5 / step}) for step in steps]


def test_a_restarted_process_logs_each_step_once(root: Path) -> None:
    training(root).log(values(1, 2))
    training(root).log([*values(2, 3), (4, {"bbox/AP": 0.5})])
    assert history(root, "loss") == [(1, 1.0), (2, 0.5), (3, 1.0 / 3)]
    assert history(root, "loss_cls") == [(1, 0.5), (2, 0.25), (3, 0.5 / 3)]
    assert history(root, "bbox/AP") == [(4, 0.5)]
    (run,) = runs(root)
    assert run.data.params["iterations"] == "4"
    assert run.info.status == "RUNNING"


def test_evaluations_after_the_last_losses_are_logged_once(root: Path) -> None:
    measured = [*values(1, 2), (3, {"bbox/AP": 0.5})]
    training(root).log(measured)
    training(root).log([*measured, *values(4)])
    assert history(root, "bbox/AP") == [(3, 0.5)]
    assert [step for step, _ in history(root, "loss")] == [1, 2, 4]


def test_a_history_is_read_once_by_a_process(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    history_of = mlflow.MlflowClient.get_metric_history

    def spied(client: Any, run_id: str, name: str) -> Any:
        read.append(name)
        return history_of(client, run_id, name)

    run = training(root)
    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "get_metric_history", spied)
        run.log(values(1, 2))
        run.log(values(2, 3))
    assert sorted(read) == ["loss", "loss_cls"]
    assert [step for step, _ in history(root, "loss")] == [1, 2, 3]


def test_more_metrics_than_mlflow_takes_at_once(root: Path) -> None:
    training(root).log(values(*range(1, 1202)))
    assert len(history(root, "loss")) == 1201


def test_a_training_killed_after_its_end_keeps_its_finished_run(root: Path) -> None:
    training(root).start()
    training(root).log(values(1, 2))
    first = training(root).finish({"bbox/AP": 0.7}, 2, "sha")
    training(root).log(values(1, 2))  # as the next process does, which has no step to train
    assert training(root).finish({"bbox/AP": 0.7}, 2, "sha") == first
    (run,) = runs(root)
    assert run.info.status == "FINISHED"
    assert history(root, "loss") == [(1, 1.0), (2, 0.5)]
    assert history(root, "result/bbox/AP") == [(2, 0.7)]
    assert training(root).finish({"bbox/AP": 0.7}, 2, "other weights") != first


def test_a_finished_training_is_not_continued(root: Path) -> None:
    training(root).log(values(1))
    first = training(root).finish({"bbox/AP": 0.7}, 4, "sha")
    training(root).start()
    training(root).log(values(1))
    training(root, "other").log(values(1))
    found = runs(root)
    assert len(found) == 3
    (done,) = (run for run in found if run.info.status == "FINISHED")
    assert done.info.run_id == first
    assert done.data.metrics["result/bbox/AP"] == 0.7
    assert done.data.tags[TRAINED_WEIGHTS] == "sha"


def test_the_versions_of_the_weights_are_children(root: Path) -> None:
    other = training(root, "a").finish({}, 4, "other weights")
    parent = training(root, "b").finish({}, 4, toy_artifact(root).weights_sha256)
    outcome: Any = register_jobs(
        [toy_job(root)], workspace=root, checkout=root, settings=RegistrySettings.of({})
    )
    with open_store(root, experiment="detexport"):
        client = mlflow.MlflowClient()
        entry = outcome["registered"][0]
        version = client.get_model_version(entry["name"], entry["version"])
        tags = client.get_run(version.run_id).data.tags
    assert tags[PARENT] == parent != other
