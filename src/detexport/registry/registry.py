"""Model versions in MLflow's registry, found by the digest of their content.

One call creates a version, after its files are stored: no version lacks its artifact. A killed registration
leaves an unfinished run, which the next registration removes.
"""

import json
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.utils.file_utils import local_file_uri_to_path

from detexport.artifact import MANIFEST, read_verified
from detexport.errors import ArtifactError
from detexport.registry.content import PACKAGE, PYFUNC, Content
from detexport.registry.evidence import Evidence
from detexport.registry.signature import build_signature, describe_graph
from detexport.registry.store import Store
from detexport.system.digests import sha256_file

ADDRESS = "detexport.content_sha256"
EVIDENCE = "detexport.evidence_sha256"
TARGET = "detexport.target"
NAME = "detexport.registered_name"
PROMOTION = "promotion."
"""Prefix of a version's tags about ``champion``."""
NO_RELEASE = "detexport.no_release"
"""Tag of a run that is not a release: the reason."""


@dataclass(frozen=True)
class Registry:
    """The versions in a store.

    Args:
        store: from ``open_store``.
    """

    store: Store
    client: mlflow.MlflowClient = field(default_factory=mlflow.MlflowClient)

    def register(self, name: str, folder: Path, content: Content, evidence: Evidence) -> str:
        """Find the version that has this content, or create it.

        If several have it (two machines registered at once), the lowest stays. A version whose files are
        missing or changed is replaced, and its aliases move to the new version.

        Args:
            name: registered name.
            folder: the artifact's folder.
            content: the version's content, with the artifact in ``folder``.
            evidence: the measurements; an existing version is updated if they are new.

        Returns:
            The version's number.
        """
        created = None
        versions = self._find(name, content)
        kept = next((version for version in versions if self._holds(version, content)), None)
        if kept is None:
            created = self._create(name, folder, content, evidence)
            versions = self._find(name, content)
            kept = next(v for v in versions if v.run_id == created or self._holds(v, content))
        for other in versions:
            if other.version != kept.version:
                self._replace(other, kept)
        if created and created != kept.run_id:
            self._discard(self.client.get_run(created))
        if kept.tags.get(EVIDENCE) != evidence.sha256:
            self._renew(kept, content, evidence)
        return str(kept.version)

    def log_experiment(
        self, name: str, folder: Path, content: Content, evidence: Evidence, *, experiment: str, reason: str
    ) -> str:
        """Log a model that is not a release: a run with its files and measurements, and no version.

        A run with the same content and measurements is found again.

        Args:
            name: the name that a release would have.
            folder: the artifact's folder.
            content: the model's content, with the artifact in ``folder``.
            evidence: the measurements.
            experiment: name of the MLflow experiment.
            reason: why it is not a release.

        Returns:
            The run's id.
        """
        experiment_id = self.store.other_experiment(experiment)
        tags = {NAME: name, ADDRESS: content.sha256, EVIDENCE: evidence.sha256}
        same = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        for run in self.client.search_runs([experiment_id], f"{same} and attributes.status = 'FINISHED'"):
            return str(run.info.run_id)
        tags |= _tags(content, evidence) | {NO_RELEASE: reason}
        with self._logged(experiment_id, name, folder, content, evidence, tags) as (run_id, _):
            return run_id

    def remove_leftovers(self, *experiments: str) -> None:
        """Remove the unfinished runs of killed registrations, with their files.

        Args:
            *experiments: names of other MLflow experiments to look at.
        """
        ids = [self.store.experiment_id]
        found = (self.client.get_experiment_by_name(name) for name in experiments)
        ids += [experiment.experiment_id for experiment in found if experiment]
        runs = self.client.search_runs(ids, "attributes.status != 'FINISHED'")
        oldest_ms = (time.time() - self.store.leftover_age_s) * 1000
        for run in runs:
            if NAME not in run.data.tags or run.info.start_time > oldest_ms:
                continue
            if self.client.search_model_versions(f"run_id = '{run.info.run_id}'"):
                self.client.set_terminated(run.info.run_id)  # killed after it created its version
            else:
                self._discard(run)

    def _find(self, name: str, content: Content) -> list[ModelVersion]:
        """Return the versions with this content, the lowest first."""
        found = self.client.search_model_versions(
            f"name = '{name}' and tags.`{ADDRESS}` = '{content.sha256}'"
        )
        return sorted(found, key=lambda version: int(version.version))

    def _holds(self, version: ModelVersion, content: Content) -> bool:
        """Return whether all files of a version are present and unchanged."""
        try:
            with self.files(model_id_of(version)) as folder:
                _check_files(folder, content)
        except ArtifactError as error:
            print(f"{version.name} version {version.version} is broken: {error}", file=sys.stderr)
            return False
        return True

    @contextmanager
    def files(self, model_id: str) -> Iterator[Path]:
        """Yield the folder of a stored model: the local one, or a temporary download."""
        try:
            model = self.client.get_logged_model(model_id)
            if model.artifact_location.startswith(("file:", "/")):
                yield Path(local_file_uri_to_path(model.artifact_location))
                return
            with tempfile.TemporaryDirectory() as temporary:
                yield Path(
                    mlflow.artifacts.download_artifacts(
                        artifact_uri=f"models:/{model.model_id}", dst_path=temporary
                    )
                )
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise ArtifactError("its files are missing", got=str(error)) from error

    def _create(self, name: str, folder: Path, content: Content, evidence: Evidence) -> str:
        """Store a model's files, check them, then create the version; return the run's id."""
        tags = {NAME: name, ADDRESS: content.sha256}
        with self._logged(self.store.experiment_id, name, folder, content, evidence, tags) as (
            run_id,
            model_id,
        ):
            self._create_name(name)
            version = self.client.create_model_version(
                name,
                source=f"models:/{model_id}",
                run_id=run_id,
                tags=_tags(content, evidence),
                description=evidence.describe(),
                model_id=model_id,
            )
        # The tag that MLflow's register_model sets: its UI links the model to the version by it.
        link = [{"name": name, "version": version.version}]
        self.client.set_logged_model_tags(model_id, {"mlflow.modelVersions": json.dumps(link)})
        return run_id

    @contextmanager
    def _logged(
        self,
        experiment_id: str,
        name: str,
        folder: Path,
        content: Content,
        evidence: Evidence,
        tags: dict[str, str],
    ) -> Iterator[tuple[str, str]]:
        """Store a model's files and evidence in a new run, and check them; yield the run's and model's ids.

        The run is finished after the block.
        """
        run_id: str = self.client.create_run(experiment_id, run_name=name, tags=tags).info.run_id
        with mlflow.start_run(run_id=run_id):
            model_id = _log_model(folder, content)
            with self.files(model_id) as stored:
                _check_files(stored, content)
            mlflow.log_params(_describe_options(content))
            mlflow.log_metrics(evidence.metrics, model_id=model_id)
            for path, value in evidence.files.items():
                mlflow.log_dict(value, path)
            yield run_id, model_id

    def _create_name(self, name: str) -> None:
        try:
            self.client.create_registered_model(
                name, description="A detector: encoded images in, boxes, scores, classes and masks out."
            )
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _renew(self, version: ModelVersion, content: Content, evidence: Evidence) -> None:
        """Replace a version's evidence; its digest is tagged last, so that a killed update is repeated."""
        run = self.client.get_run(str(version.run_id))
        if run.info.lifecycle_stage == "active":  # a user may have deleted it; the version remains
            model_id = model_id_of(version)
            mlflow.log_metrics(evidence.metrics, run_id=version.run_id, model_id=model_id)
            for path, value in evidence.files.items():
                self.client.log_dict(str(version.run_id), value, path)
        self.client.update_model_version(version.name, version.version, description=evidence.describe())
        for key, value in _tags(content, evidence).items():
            self.client.set_model_version_tag(version.name, version.version, key, value)

    def _replace(self, version: ModelVersion, successor: ModelVersion) -> None:
        """Delete a version, after moving its aliases and the decisions about it to its successor."""
        try:
            for key, value in version.tags.items():
                if key.startswith(PROMOTION) and key not in successor.tags:
                    self.client.set_model_version_tag(version.name, successor.version, key, value)
            aliases = self.client.get_model_version(version.name, version.version).aliases
            for alias in aliases:
                self.client.set_registered_model_alias(version.name, alias, successor.version)
            self.client.delete_model_version(version.name, version.version)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":  # another process was faster
                raise
        print(f"{version.name} version {version.version} is replaced by {successor.version}", file=sys.stderr)

    def _discard(self, run: Run) -> None:
        """Delete the models that a run logged, then the run, through which they are found."""
        for output in run.outputs.model_outputs if run.outputs else []:
            model = self.client.get_logged_model(output.model_id)
            if self.store.artifacts:
                location = Path(local_file_uri_to_path(model.artifact_location))
                if location.is_relative_to(self.store.artifacts):
                    shutil.rmtree(location.parent, ignore_errors=True)
            self.client.delete_logged_model(model.model_id)
        self.client.delete_run(run.info.run_id)


def model_id_of(version: ModelVersion) -> str:
    """Return the id of the logged model that a version was created from."""
    return str(version.source).removeprefix("models:/")


def _log_model(folder: Path, content: Content) -> str:
    """Log a model's files in the active run; return the model's id."""
    # MLflow infers signature and requirements from an input example; both are passed here.
    warnings.filterwarnings("ignore", message=".*An input example was not provided", category=UserWarning)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    with tempfile.TemporaryDirectory() as temporary:
        target = Path(temporary) / "target.json"
        content.write_target(target)
        info = mlflow.pyfunc.log_model(
            name="detector",
            python_model=str(PYFUNC),
            artifacts={"artifact": str(folder), "target": str(target)},
            # The whole package: the model's copy comes first on sys.path and hides an installed one.
            code_paths=[str(PACKAGE)],
            signature=build_signature(content.contract),
            pip_requirements=list(content.requirements),
            model_config={"device": "cpu"},
            tags=_describe(content),
            metadata={"graph": describe_graph(content.contract), **_describe(content)},
        )
    return str(info.model_id)


def _check_files(folder: Path, content: Content) -> None:
    """Compare a stored model's files with the content that it was created from.

    Raises:
        ArtifactError: a file is missing or was changed.
    """
    found = next(folder.glob(f"artifacts/*/{MANIFEST}"), folder / "artifacts" / MANIFEST).parent
    artifact = read_verified(found)
    code = {name: folder / "code" / PACKAGE.name / name for name in content.code}
    wanted = {
        **{code[name]: sha256 for name, sha256 in content.code.items()},
        folder / PYFUNC.name: sha256_file(PYFUNC),
    }
    wrong = [path for path, sha256 in wanted.items() if not path.is_file() or sha256_file(path) != sha256]
    wrong += [
        path for path in (folder / "MLmodel", folder / "artifacts" / "target.json") if not path.is_file()
    ]
    if artifact.sha256 != content.artifact.sha256 or wrong:
        raise ArtifactError(
            "the stored files of a model differ from its content",
            got=", ".join(map(str, wrong)) or f"artifact {artifact.sha256}",
            expected=f"artifact {content.artifact.sha256} and its code",
            remedy="register again; do not change the artifact or the package while it runs",
        )


def _tags(content: Content, evidence: Evidence) -> dict[str, str]:
    """Return a version's tags, the digest of its evidence last."""
    return {**_describe(content), TARGET: evidence.target, **evidence.lineage, EVIDENCE: evidence.sha256}


def _describe(content: Content) -> dict[str, str]:
    """Return a version's content as tags."""
    artifact = content.artifact
    return {
        ADDRESS: content.sha256,
        "detexport.artifact_sha256": artifact.sha256,
        "detexport.weights_sha256": artifact.weights_sha256,
        "detexport.config_sha256": artifact.config_sha256,
        "detexport.format": artifact.format.value,
        "detexport.method": artifact.method,
        "detexport.runtime": content.runtime["_target_"],
    }


def _describe_options(content: Content) -> dict[str, Any]:
    """Return the options of export and runtime as a run's parameters."""
    runtime = {name: value for name, value in content.runtime.items() if name != "_target_"}
    return {
        **{f"{content.artifact.method}.{name}": value for name, value in content.artifact.options.items()},
        **{f"runtime.{name}": value for name, value in runtime.items()},
    }
