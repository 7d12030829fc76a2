"""What the processes of the tests do: register and promote, as the stages do."""

import os
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path

CONTEXT = get_context("forkserver")
# Imported once, so that a killed process costs no imports.
CONTEXT.set_forkserver_preload(["detexport.workflows.promote", "detexport.registry.jobs", "mlflow.pyfunc"])


def register(root: Path, uri: str) -> None:
    from toy_project import toy_job

    from detexport.registry.jobs import register_jobs
    from detexport.registry.settings import RegistrySettings

    _use(uri)
    register_jobs([toy_job(root)], workspace=root, checkout=root, settings=RegistrySettings.of({}))


def promote_version(uri: str, name: str, version: str) -> None:
    from detexport.registry.promotion import Promotion
    from detexport.registry.registry import Registry
    from detexport.registry.settings import RegistrySettings
    from detexport.registry.store import open_store

    _use(uri)
    with open_store(Path(), experiment="detexport") as store:
        Promotion(Registry(store), RegistrySettings.of({})).promote_registered(name, version)


def promote_by_hand(uri: str, name: str, version: str) -> None:
    from detexport.registry.promotion import Promotion
    from detexport.registry.registry import Registry
    from detexport.registry.settings import RegistrySettings
    from detexport.registry.store import open_store

    _use(uri)
    with open_store(Path(), experiment="detexport") as store:
        Promotion(Registry(store), RegistrySettings.of({})).promote(name, version)


def roll_back(uri: str, name: str) -> None:
    from detexport.registry.promotion import Promotion
    from detexport.registry.registry import Registry
    from detexport.registry.settings import RegistrySettings
    from detexport.registry.store import open_store

    _use(uri)
    with open_store(Path(), experiment="detexport") as store:
        Promotion(Registry(store), RegistrySettings.of({})).rollback(name)


def _use(uri: str) -> None:
    """Use a server; ask it few times, and soon, while it starts again."""
    os.environ["MLFLOW_TRACKING_URI"] = uri
    os.environ |= {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1"}
    os.environ |= {"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}


def start(target: object, *arguments: object) -> ForkServerProcess:
    process = CONTEXT.Process(target=target, args=arguments)  # type: ignore[arg-type]
    process.start()
    return process
