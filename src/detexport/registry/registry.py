"""Model versions in MLflow's registry, found by the digest of their content.

One call creates a version, after its files are stored: no version lacks its artifact. A killed registration
leaves an unfinished run, which the next registration removes.
"""

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd  # type: ignore[import-untyped]
from mlflow.entities import Dataset, DatasetInput, InputTag, Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from detexport.artifact import MANIFEST, read_verified
from detexport.conf_files import copy_package
from detexport.errors import ArtifactError
from detexport.registry.card import describe_version
from detexport.registry.content import PACKAGE, PYFUNC, Content
from detexport.registry.download import ARTIFACT_TAG
from detexport.registry.evidence import Evidence
from detexport.registry.location import ADDRESS
from detexport.registry.provenance import (
    CERTIFICATE_TAG,
    PROVENANCE,
    PROVENANCE_TAG,
    describe_provenance,
)
from detexport.registry.pyfunc_inputs import ALLOWED
from detexport.registry.run_files import example_image, write_run_files
from detexport.registry.signature import build_signature, describe_graph
from detexport.registry.store import Store
from detexport.registry.training_run import parent_tags
from detexport.system.digests import sha256_file, sha256_json
from detexport.system.files import write_json

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
        with self._logged(experiment_id, name, folder, content, evidence, tags) as (run_id, *_):
            return run_id

    def origin(self, name: str, version: str) -> dict[str, str]:
        """Return when a version was created (ISO 8601, UTC), and the commit that it was registered from."""
        found = self.client.get_model_version(name, version)
        created = datetime.fromtimestamp(found.creation_timestamp / 1000, UTC)
        tags = {key: found.tags[key] for key in ("git.revision", "git.dirty") if key in found.tags}
        return {
            "registered_at": created.isoformat(timespec="seconds"),
            **{key.replace(".", "_"): value for key, value in tags.items()},
        }

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
        """Yield a stored model's folder: the local one, or a temporary download.

        Args:
            model_id: the id of the logged model.

        Raises:
            ArtifactError: the files are missing.
        """
        try:
            model = self.client.get_logged_model(model_id)
            if model.artifact_location.startswith(("file:", "/")):
                yield Path(local_file_uri_to_path(model.artifact_location))
                return
            with tempfile.TemporaryDirectory() as temporary:
                location = model.artifact_location
                yield Path(mlflow.artifacts.download_artifacts(artifact_uri=location, dst_path=temporary))
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise ArtifactError(
                "its files are missing",
                got=str(error),
                expected="the files of a registered version",
                remedy="register the model again",
            ) from error

    def _create(self, name: str, folder: Path, content: Content, evidence: Evidence) -> str:
        """Store a model's files, check them, then create the version; return the run's id."""
        tags = {NAME: name, ADDRESS: content.sha256}
        with self._logged(self.store.experiment_id, name, folder, content, evidence, tags) as (
            run_id,
            model_id,
            evidence_tags,
        ):
            self._create_name(name)
            version = self.client.create_model_version(
                name,
                source=f"models:/{model_id}",
                run_id=run_id,
                tags=evidence_tags,
                description=describe_version(name, content, evidence),
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
    ) -> Iterator[tuple[str, str, dict[str, str]]]:
        """Store a model's files and evidence in a new run, and check them.

        The run is a child of the training's, if this store has it. Yields the run's id, the model's id and
        the tags of a version. The run is finished after the block.
        """
        tags = tags | parent_tags(self.client, self.store.experiment_id, content.artifact.weights_sha256)
        run_id: str = self.client.create_run(experiment_id, run_name=name, tags=tags).info.run_id
        with mlflow.start_run(run_id=run_id):
            model_id = _log_model(folder, content, example_image(evidence, content.contract))
            with self.files(model_id) as stored:
                _check_files(stored, content)
                evidence_tags = self._log_evidence(run_id, model_id, stored, name, content, evidence)
            mlflow.log_params(_describe_options(content))
            yield run_id, model_id, evidence_tags

    def _log_evidence(
        self, run_id: str, model_id: str, stored: Path, name: str, content: Content, evidence: Evidence
    ) -> dict[str, str]:
        """Log metrics, data set, files and provenance with a run and its model; return the version's tags.

        The last of the tags says that all of it is complete.
        """
        mlflow.log_metrics(evidence.metrics, run_id=run_id, model_id=model_id)
        if evidence.data:
            self.client.log_inputs(run_id, [_dataset_input(evidence)])
        with tempfile.TemporaryDirectory() as temporary:
            files = Path(temporary)
            write_run_files(files, name, content, evidence)
            provenance = describe_provenance(name, content, evidence, model_files=stored, run_files=files)
            write_json(files / PROVENANCE, provenance)
            self.client.log_artifacts(run_id, temporary)
            self.client.log_model_artifact(model_id, str(files / PROVENANCE))
        source = {"mlflow.source.type": "LOCAL", "mlflow.source.name": "stages/register.py"}
        source |= {"mlflow.source.git.commit": evidence.lineage["git.revision"]}
        for key, value in source.items():
            self.client.set_tag(run_id, key, value)
        return {
            CERTIFICATE_TAG: evidence.certificate["sha256"],
            PROVENANCE_TAG: sha256_json(provenance),
            **_tags(content, evidence),
        }

    def _create_name(self, name: str) -> None:
        try:
            self.client.create_registered_model(
                name, description="Encoded images in; the signature of each version lists the outputs."
            )
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _renew(self, version: ModelVersion, content: Content, evidence: Evidence) -> None:
        """Replace a version's evidence; its digest is tagged last, so that a killed update is repeated."""
        run, model_id = self.client.get_run(str(version.run_id)), model_id_of(version)
        if run.info.lifecycle_stage != "active":
            self.client.restore_run(run.info.run_id)  # a user deleted it: the evidence is stored with it
        with self.files(model_id) as stored:
            tags = self._log_evidence(run.info.run_id, model_id, stored, version.name, content, evidence)
        description = describe_version(version.name, content, evidence)
        self.client.update_model_version(version.name, version.version, description=description)
        for key, value in tags.items():
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


def _dataset_input(evidence: Evidence) -> DatasetInput:
    """Return the data set of the validation, as MLflow's UI shows it."""
    path, md5 = evidence.data["path"], evidence.data["md5"]
    dataset = Dataset(evidence.dataset, md5, source_type="local", source=json.dumps({"uri": path}))
    return DatasetInput(dataset, [InputTag(MLFLOW_DATASET_CONTEXT, "validation")])


def _log_model(folder: Path, content: Content, example: bytes) -> str:
    """Log a model's files in the active run; return the model's id.

    Args:
        folder: the artifact's folder.
        content: the version's content, with the artifact in ``folder``.
        example: an encoded image, the input example; MLflow runs the model on it.
    """
    with tempfile.TemporaryDirectory() as temporary:
        target = Path(temporary) / "target.json"
        content.write_target(target)
        info = mlflow.pyfunc.log_model(
            name="detector",
            python_model=str(PYFUNC),
            artifacts={"artifact": str(folder), "target": str(target)},
            # The whole package: the model's copy comes first on sys.path and hides an installed one.
            code_paths=[str(copy_package(Path(temporary)))],
            signature=build_signature(content.contract),
            input_example=pd.DataFrame({"image": [example]}),
            pip_requirements=list(content.requirements),
            model_config={"device": "cpu", ALLOWED: []},
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
    """Return the tags of a version, the digest of its evidence last.

    Only what people search by and what code compares: everything else about the origin of a version is in
    ``provenance.json``, and about its artifact in the tags of the logged model.
    """
    return {**_digests(content), TARGET: evidence.target, **evidence.lineage, EVIDENCE: evidence.sha256}


def _digests(content: Content) -> dict[str, str]:
    """Return the digests of a version's content as tags."""
    artifact = content.artifact
    return {
        ADDRESS: content.sha256,
        ARTIFACT_TAG: artifact.sha256,
        "detexport.weights_sha256": artifact.weights_sha256,
        "detexport.config_sha256": artifact.config_sha256,
    }


def _describe(content: Content) -> dict[str, str]:
    """Return the tags of a logged model: the digests of its content, and how it was made and runs."""
    return {
        **_digests(content),
        "detexport.format": content.artifact.format.value,
        "detexport.method": content.artifact.method,
        "detexport.runtime": content.runtime["_target_"],
    }


def _describe_options(content: Content) -> dict[str, Any]:
    """Return the options of export and runtime as a run's parameters."""
    runtime = {name: value for name, value in content.runtime.items() if name != "_target_"}
    return {
        **{f"{content.artifact.method}.{name}": value for name, value in content.artifact.options.items()},
        **{f"runtime.{name}": value for name, value in runtime.items()},
    }
