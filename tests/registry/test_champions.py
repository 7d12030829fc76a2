"""The champions of a registry, with the statistics of their data and their artifacts."""

from dataclasses import replace
from pathlib import Path

import pytest
from toy_project import toy_artifact, toy_job, write_project, write_version

from detexport.artifact import read_artifact
from detexport.registry.champions import champion_artifact, read_champions
from detexport.registry.jobs import register_jobs
from detexport.registry.promotion import Promotion
from detexport.registry.registry import Registry
from detexport.registry.settings import RegistrySettings
from detexport.registry.store import open_store

pytestmark = pytest.mark.usefixtures("no_server")
STATISTICS = {"val": {"images": 3, "labels": {"circle": 3}, "boxes_outside": 0, "boxes_outside_ids": []}}
SETTINGS = RegistrySettings.of({})


def test_a_champion_has_the_statistics_of_its_data_and_its_artifact(root: Path) -> None:
    name = toy_job(root).name
    assert read_champions([name], SETTINGS, root) == {}
    given = {"workspace": root, "checkout": root, "settings": SETTINGS}
    register_jobs([toy_job(root)], **given, data_statistics=STATISTICS)
    assert read_champions([name], SETTINGS, root) == {}, "a version without the alias"
    with open_store(root, experiment="detexport") as store:
        Promotion(Registry(store), SETTINGS).promote(name)
    found = read_champions([name, "another"], SETTINGS, root)
    assert found.keys() == {name}
    champion, artifact = found[name], toy_artifact(root)
    assert (champion.version, champion.artifact_sha256) == ("1", artifact.sha256)
    assert champion.data == STATISTICS
    with champion_artifact(champion, SETTINGS, root) as folder:
        assert read_artifact(folder).sha256 == artifact.sha256
    assert not champion.is_reexported_as(artifact)
    assert champion.is_reexported_as(replace(artifact, versions={"torch": "9"}))
    assert not champion.is_reexported_as(replace(artifact, versions={"torch": "9"}, weights_sha256="1" * 64))


def test_a_champion_may_have_no_statistics(tmp_path: Path) -> None:
    write_project(tmp_path)
    write_version(tmp_path, 1)
    register_jobs([toy_job(tmp_path)], workspace=tmp_path, checkout=tmp_path, settings=SETTINGS)
    with open_store(tmp_path, experiment="detexport") as store:
        Promotion(Registry(store), SETTINGS).promote("toy-onnx")
    assert read_champions(["toy-onnx"], SETTINGS, tmp_path)["toy-onnx"].data is None
