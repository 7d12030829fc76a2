"""The registry's store: an MLflow server, or an SQLite file and a folder in the workspace."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Before MLflow is imported: the pipeline sends no telemetry unless its user enables it.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# MLflow's bars for each transfer of a file would break up the command's own.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import logging

import mlflow
import sqlalchemy
from filelock import FileLock, Timeout
from mlflow.exceptions import MlflowException
from requests.exceptions import RequestException
from sqlalchemy.exc import SQLAlchemyError

from detexport.errors import BROKEN, DetexportError
from detexport.registry.location import DATABASE, own_uri, selected_uri
from detexport.system.process import redacted_output
from detexport.system.redaction import public_uri, redact

ARTIFACTS = "mlartifacts"
# For the first request to a server, so that a wrong address fails at once; MLflow's defaults are minutes.
FIRST_REQUEST = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
LOCK_TIMEOUT_S = 600
# The database dialects that MLflow supports as a backend store.
DATABASE_ENGINES = ("mssql", "mysql", "postgresql", "sqlite")
# On a server, only its age distinguishes a killed run from one in progress on another machine.
LEFTOVER_AGE_S = 3600


class RegistryError(DetexportError):
    """The registry cannot be reached or refuses a request."""

    exit_code = BROKEN


@dataclass(frozen=True)
class Store:
    """An MLflow store that was reached.

    Args:
        uri: tracking URI; a database's may hold a password, so show ``public_uri`` instead.
        experiment_id: the experiment of the registrations' runs.
        leftover_age_s: age in seconds from which an unfinished run counts as killed.
        artifacts: the folder of the artifacts of the workspace's own store, else None.
    """

    uri: str
    experiment_id: str
    leftover_age_s: float
    artifacts: Path | None

    def other_experiment(self, name: str) -> str:
        """Return the id of another MLflow experiment of this store; create it if needed."""
        return _find_experiment(self.uri, name, self.artifacts)

    @property
    def public_uri(self) -> str:
        """The tracking URI without user, password and query."""
        return public_uri(self.uri)


@contextmanager
def open_store(root: Path, *, tracking_uri: str | None = None, experiment: str) -> Iterator[Store]:
    """Open the registry's store; create the workspace's own if it does not exist.

    The workspace's own store is locked while it is open: registrations from several processes (queued
    experiments) wait for each other.

    Args:
        root: the workspace; relative URIs are resolved against it.
        tracking_uri: the store; None selects the workspace's own. ``MLFLOW_TRACKING_URI`` overrides it.
        experiment: name of the experiment.

    Raises:
        RegistryError: the store cannot be reached or read, or refuses a request; or ``tracking_uri`` holds a
            password, which git and DVC would keep.
    """
    _refuse_secrets(tracking_uri)
    own, given = own_uri(root), selected_uri(root, tracking_uri)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    if given != own:
        with redacted_output(), explained_errors(given), ExitStack() as stack:
            with explained_errors(
                given, Exception
            ):  # URI parsers and database drivers raise their own errors
                uri, login = _without_login(given)
                stack.enter_context(_environment(login))
                with _environment(FIRST_REQUEST):
                    _try_database(uri)
                    experiment_id = _find_experiment(uri, experiment)
            yield Store(uri, experiment_id, leftover_age_s=LEFTOVER_AGE_S, artifacts=None)
        return
    artifacts = root / ARTIFACTS
    with redacted_output(), explained_errors(own), _locked(artifacts):
        if not (root / DATABASE).exists():
            _create_database(root / DATABASE, experiment, artifacts)
        experiment_id = _find_experiment(own, experiment, artifacts)
        yield Store(own, experiment_id, leftover_age_s=0, artifacts=artifacts)


def _without_login(uri: str) -> tuple[str, dict[str, str]]:
    """Return a server's address without user and password, and the variables that pass them to MLflow.

    So MLflow neither prints nor stores them. A database's address keeps them: its driver reads them there.
    """
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or not (parts.username and parts.password):
        return uri, {}
    login = {
        "MLFLOW_TRACKING_USERNAME": unquote(parts.username),
        "MLFLOW_TRACKING_PASSWORD": unquote(parts.password),
    }
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(), login


def _refuse_secrets(tracking_uri: str | None) -> None:
    """Raise ``RegistryError`` if an address from ``params.yaml`` has a user part or a query."""
    if tracking_uri and public_uri(tracking_uri) != tracking_uri:
        raise RegistryError(
            "registry.tracking_uri holds a user, a password or a query",
            got=f"{public_uri(tracking_uri)} with one of these",
            expected="an address without them: params.yaml and dvc.lock are kept in git",
            remedy="set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_URI",
        )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=LOCK_TIMEOUT_S):
            yield
    except Timeout as error:
        raise RegistryError(
            "another process holds the registry",
            got=f"{error.lock_file} locked for {LOCK_TIMEOUT_S} s",
            remedy="wait for it or end it; the lock ends with its process",
        ) from error


def _try_database(uri: str) -> None:
    """Connect to a database once, since MLflow retries for minutes."""
    if uri.partition(":")[0].partition("+")[0] not in DATABASE_ENGINES:
        return
    try:
        engine = sqlalchemy.create_engine(uri)
    except ModuleNotFoundError as error:
        raise RegistryError(
            f"the registry {public_uri(uri)} needs a database driver",
            got=redact(str(error)),
            remedy=f"install the driver: pip install {error.name}",
        ) from error
    engine.connect().close()
    engine.dispose()


def _create_database(database: Path, experiment: str, artifacts: Path) -> None:
    """Create the database under a temporary name and rename it: MLflow cannot migrate half a schema."""
    temporary = artifacts / f".{database.name}.partial"
    for stale in artifacts.glob(f"{temporary.name}*"):  # with SQLite's journal
        stale.unlink()
    _find_experiment(f"sqlite:///{temporary}", experiment, artifacts)
    temporary.replace(database)


def _find_experiment(uri: str, name: str, artifacts: Path | None = None) -> str:
    """Return the id of the active experiment that stores its files in ``artifacts``; create it if needed."""
    with _environment({"MLFLOW_TRACKING_URI": uri}):  # MLflow sets this variable and does not reset it
        mlflow.set_tracking_uri(uri)
    client = mlflow.MlflowClient()
    location = artifacts.as_uri() if artifacts else None
    found = client.get_experiment_by_name(name)
    if found and location and found.artifact_location != location:
        # The workspace was moved or copied: keep its old location out of use.
        client.rename_experiment(found.experiment_id, f"{name} (until {found.last_update_time})")
        found = None
    if found is None:
        return _create_experiment(client, name, location)
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    experiment_id: str = found.experiment_id
    return experiment_id


def _create_experiment(client: mlflow.MlflowClient, name: str, location: str | None) -> str:
    """Create an experiment; another process may be faster."""
    try:
        created: str = client.create_experiment(name, artifact_location=location)
        return created
    except MlflowException as error:
        found = client.get_experiment_by_name(name)
        if error.error_code != "RESOURCE_ALREADY_EXISTS" or found is None:
            raise
        existing: str = found.experiment_id
        return existing


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables for the block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


@contextmanager
def explained_errors(uri: str, *others: type[Exception]) -> Iterator[None]:
    """Turn the errors of MLflow, and ``others``, into a ``RegistryError`` that names the registry."""
    try:
        yield
    except DetexportError:
        raise
    except Exception as error:
        if not isinstance(error, (MlflowException, SQLAlchemyError, RequestException, *others)):
            raise
        raise RegistryError(
            f"the registry {public_uri(uri)} cannot be used",
            got=redact(f"{type(error).__name__}: {error}"),
            expected="an MLflow tracking server or database that can be reached and written",
            remedy="check MLFLOW_TRACKING_URI (or registry.tracking_uri), and that the server runs",
        ) from error
