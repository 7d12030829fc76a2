"""The MLflow run of a training: its settings and curves. Versions of the trained model are its children."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
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
RUNNING, FINISHED = "attributes.status = 'RUNNING'", "attributes.status = 'FINISHED'"


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
    # The last logged step of each metric, as far as this process knows it.
    last_steps: dict[str, int] = field(default_factory=dict, init=False)

    def start(self) -> None:
        """Create the run, unless an unfinished one is found.

        Raises:
            RegistryError: the store cannot be reached or refuses a request.
        """
        with self._store() as (client, experiment_id):
            if not self._find(client, experiment_id, RUNNING):
                self._create(client, experiment_id)

    def log(self, measured: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """Log values by step; those that were logged before, also in the finished run, are left out.

        Args:
            measured: numbers of steps, ascending, with the values measured after them.

        Raises:
            RegistryError: see ``start``.
        """
        with self._store() as (client, experiment_id):
            # A process that was killed after it had finished the run has nothing new to log.
            run_id = (
                self._find(client, experiment_id, RUNNING)
                or self._find(client, experiment_id, FINISHED)
                or self._create(client, experiment_id)
            )
            names = {name for _, values in measured for name in values}
            # Asked for once, since the histories grow with the training.
            for name in names - self.last_steps.keys():
                self.last_steps[name] = _last_step(client, run_id, name)
            now_ms = get_current_time_millis()
            metrics = [
                Metric(name, float(value), now_ms, step)
                for step, values in measured
                for name, value in sorted(values.items())
                if step > self.last_steps[name]
            ]
            for start in range(0, len(metrics), MOST_METRICS):
                client.log_batch(run_id, metrics=metrics[start : start + MOST_METRICS])
            self.last_steps.update({metric.key: metric.step for metric in metrics})

    def finish(self, metrics: Mapping[str, float], steps: int, weights_sha256: str) -> str:
        """Log the result and end the run; return its id.

        A run that a killed process has finished with the same weights is returned as it is.

        Args:
            metrics: of the trained weights.
            steps: number of steps of the training.
            weights_sha256: digest of the weights' file, by which the versions of the model find their run.

        Raises:
            RegistryError: see ``start``.
        """
        with self._store() as (client, experiment_id):
            finished = f"{FINISHED} and tags.`{TRAINED_WEIGHTS}` = '{weights_sha256}'"
            running = self._find(client, experiment_id, RUNNING)
            found = None if running else self._find(client, experiment_id, finished)
            if found:
                return found
            run_id = running or self._create(client, experiment_id)
            now_ms = get_current_time_millis()
            final = [Metric(f"result/{name}", value, now_ms, steps) for name, value in metrics.items()]
            client.log_batch(run_id, metrics=final, tags=[RunTag(TRAINED_WEIGHTS, weights_sha256)])
            client.set_terminated(run_id)
            return run_id

    @contextmanager
    def _store(self) -> Iterator[tuple[mlflow.MlflowClient, str]]:
        """Yield a client and the id of the experiment."""
        settings = self.settings
        with (
            open_store(
                self.workspace, tracking_uri=settings.tracking_uri, experiment=settings.experiment
            ) as store,
            explained_errors(store.uri),
        ):
            yield mlflow.MlflowClient(), store.experiment_id

    def _find(self, client: mlflow.MlflowClient, experiment_id: str, condition: str) -> str | None:
        """Return the id of the latest run of this training that meets a condition."""
        query = f"tags.`{TRAINING}` = '{self.key}' and {condition}"
        found = client.search_runs([experiment_id], query, max_results=1)
        return str(found[0].info.run_id) if found else None

    def _create(self, client: mlflow.MlflowClient, experiment_id: str) -> str:
        tags = {TRAINING: self.key}
        run = client.create_run(experiment_id, run_name=f"train {self.name}", tags=tags)
        params = [Param(name, str(value)[:LONGEST_PARAM]) for name, value in self.params.items()]
        client.log_batch(run.info.run_id, params=params)
        return str(run.info.run_id)


def _last_step(client: mlflow.MlflowClient, run_id: str, name: str) -> int:
    """Return the last step of a metric in a run; -1 without one."""
    return max((metric.step for metric in client.get_metric_history(run_id, name)), default=-1)


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
