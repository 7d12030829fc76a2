"""The MLflow run of a training: its settings and curves. Versions of the trained model are its children."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Metric, Param, RunTag
from mlflow.utils.time import get_current_time_millis

from detexport.registry.settings import RegistrySettings
from detexport.registry.store import explained_errors, open_store

TRAINING = "detexport.training_sha256"
"""Tag of a training's run: the digest of what determines the training."""
TRAINED_WEIGHTS = "detexport.trained_weights_sha256"
"""Tag of a training's run: the digest of the weights' file that it wrote."""
PARENT = "mlflow.parentRunId"
MOST_METRICS = 1000
"""MLflow's limit for one request."""
LONGEST_PARAM = 500
LAST = "loss"
"""The last metric that is logged of a step, so that it shows which steps are complete."""


@dataclass(frozen=True)
class TrainingRun:
    """The run of one training, which a restarted process finds again.

    The store is open only while something is logged, so that a training of hours does not lock it.

    Args:
        workspace: see ``open_store``.
        settings: the store and its experiment.
        name: of the model.
        key: digest of what determines the training.
        params: its settings.
    """

    workspace: Path
    settings: RegistrySettings
    name: str
    key: str
    params: Mapping[str, Any]

    def log(self, measured: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """Log values by step; steps that were logged before are left out.

        Args:
            measured: numbers of steps, ascending, with the values measured after them.

        Raises:
            RegistryError: the store cannot be reached or refuses a request.
        """
        with self._run() as (client, run_id):
            done = max((metric.step for metric in client.get_metric_history(run_id, LAST)), default=-1)
            now_ms = get_current_time_millis()
            metrics = [
                Metric(name, float(value), now_ms, step)
                for step, values in measured
                for name, value in sorted(values.items(), key=lambda item: (item[0] == LAST, item[0]))
                if step > done
            ]
            for start in range(0, len(metrics), MOST_METRICS):
                client.log_batch(run_id, metrics=metrics[start : start + MOST_METRICS])

    def finish(self, metrics: Mapping[str, float], iterations: int, weights_sha256: str) -> str:
        """Log the result and end the run; return its id.

        Args:
            metrics: of the trained weights.
            iterations: number of steps.
            weights_sha256: digest of the weights' file, by which the versions of the model find their run.

        Raises:
            RegistryError: see ``log``.
        """
        with self._run() as (client, run_id):
            now_ms = get_current_time_millis()
            final = [Metric(f"result/{name}", value, now_ms, iterations) for name, value in metrics.items()]
            client.log_batch(run_id, metrics=final, tags=[RunTag(TRAINED_WEIGHTS, weights_sha256)])
            client.set_terminated(run_id)
            return run_id

    @contextmanager
    def _run(self) -> Iterator[tuple[mlflow.MlflowClient, str]]:
        """Yield a client and the id of the run, which is created if no unfinished one is found."""
        settings = self.settings
        with (
            open_store(
                self.workspace, tracking_uri=settings.tracking_uri, experiment=settings.experiment
            ) as store,
            explained_errors(store.uri),
        ):
            client = mlflow.MlflowClient()
            yield client, self._find(client, store.experiment_id) or self._create(client, store.experiment_id)

    def _find(self, client: mlflow.MlflowClient, experiment_id: str) -> str | None:
        query = f"tags.`{TRAINING}` = '{self.key}' and attributes.status = 'RUNNING'"
        found = client.search_runs([experiment_id], query, max_results=1)
        return str(found[0].info.run_id) if found else None

    def _create(self, client: mlflow.MlflowClient, experiment_id: str) -> str:
        tags = {TRAINING: self.key}
        run = client.create_run(experiment_id, run_name=f"train {self.name}", tags=tags)
        params = [Param(name, str(value)[:LONGEST_PARAM]) for name, value in self.params.items()]
        client.log_batch(run.info.run_id, params=params)
        return str(run.info.run_id)


def parent_tags(client: mlflow.MlflowClient, experiment_id: str, weights_sha256: str) -> dict[str, str]:
    """Return the tag that makes a run the child of the training that wrote its weights; none without one.

    Args:
        client: of the store.
        experiment_id: the experiment of the trainings.
        weights_sha256: digest of the weights' file.
    """
    query = f"tags.`{TRAINED_WEIGHTS}` = '{weights_sha256}'"
    found = client.search_runs([experiment_id], query, max_results=1)
    return {PARENT: str(found[0].info.run_id)} if found else {}
