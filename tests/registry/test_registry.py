"""The registry against a real MLflow store: an SQLite file and a folder."""

import base64
import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow.entities.model_registry import ModelVersion
from toy_project import FULL_PLAN, folder, toy_artifact, toy_job, write_target, write_verdict

from detexport.parity.certificate import certify
from detexport.parity.validation_plan import ValidationPlan
from detexport.registry.content import Content
from detexport.registry.jobs import register_jobs
from detexport.registry.location import absolute_uri
from detexport.registry.settings import RegistrySettings
from detexport.registry.store import RegistryError, open_store
from detexport.system.files import read_json, write_json

pytestmark = pytest.mark.usefixtures("no_server")


DEFAULT = RegistrySettings.of({})


def register(root: Path, settings: RegistrySettings = DEFAULT, dvc_experiment: str = "") -> dict[str, Any]:
    return register_jobs(
        [toy_job(root)], workspace=root, checkout=root, settings=settings, dvc_experiment=dvc_experiment
    )


def certificate(root: Path) -> Path:
    return folder(root) / "parity" / "onnx_certificate.json"


def edit(path: Path, **changes: Any) -> None:
    write_json(path, {**read_json(path), **changes})


def certify_anew(root: Path, **runtime: Any) -> None:
    """A true certificate of the same artifact, run with other options."""
    known = read_json(certificate(root))
    verdict = read_json(folder(root) / "parity" / "onnx.json")
    options = {**known["runtime"], **runtime}
    reference = folder(root) / "reference"
    write_json(
        certificate(root),
        certify(verdict, toy_artifact(root), reference=reference, runtime=options, plan=FULL_PLAN),
    )


def client(root: Path) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(f"sqlite:///{root / 'mlflow.db'}")


def versions(root: Path, name: str = "toy-onnx") -> list[ModelVersion]:
    found = client(root).search_model_versions(f"name = '{name}'")
    return sorted((client(root).get_model_version(name, v.version) for v in found), key=lambda v: v.version)


def files(root: Path, version: ModelVersion) -> Path:
    location = client(root).get_logged_model(version.source.removeprefix("models:/")).artifact_location
    return Path(location.removeprefix("file://"))


def artifacts(run: Any) -> Path:
    return Path(run.info.artifact_uri.removeprefix("file://"))


def runs(root: Path, experiment_name: str = "detexport") -> list[Any]:
    experiment = client(root).get_experiment_by_name(experiment_name)
    return list(client(root).search_runs([experiment.experiment_id]))


def test_a_version_carries_its_evidence(root: Path) -> None:
    outcome = register(root)
    artifact = toy_artifact(root)
    (receipt,) = outcome["registered"]
    assert receipt.pop("registered_at") <= f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S+00:00}"
    assert "git_revision" in receipt
    assert {name: value for name, value in receipt.items() if not name.startswith("git_")} == {
        "job": "toy-onnx",
        "model": "toy",
        "target": "onnx",
        "name": "toy-onnx",
        "version": "1",
        "artifact_sha256": artifact.sha256,
    }
    assert outcome["refused"] == []
    assert outcome["tracking_uri"] == f"sqlite:///{root}/mlflow.db"

    (version,) = versions(root)
    assert version.tags["detexport.artifact_sha256"] == artifact.sha256
    assert version.tags["detexport.weights_sha256"] == artifact.weights_sha256
    assert version.tags["detexport.config_sha256"] == artifact.config_sha256
    digests = ("content", "artifact", "weights", "config", "certificate", "provenance", "evidence")
    assert version.tags.keys() - {"git.dirty"} == {
        *(f"detexport.{name}_sha256" for name in digests),
        *("detexport.target", "git.revision", "dvc.lock_sha256"),
    }
    assert "| cpu | 40 x 64 | 5.0 ms | 5.5 ms | 6.0 ms | 0.50 |" in version.description
    (run,) = runs(root)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["latency_cpu_p50_ms"] == 5.0
    assert run.data.metrics["box_error_px_max"] == 0.001
    assert "mask_error_px_max" not in run.data.metrics  # nothing was compared
    names = {path.relative_to(artifacts(run)).as_posix() for path in artifacts(run).rglob("*.*")}
    assert names == {
        *("README.md", "certificate.json", "latency.json", "parity.json", "provenance.json"),
        *("pictures/0-1x_artifact.png", "pictures/0-1x_eager.png"),
        *("sample/reference.json", "sample/samples/0-1x.npz"),
    }
    assert (artifacts(run) / "README.md").read_text() == f"{version.description}\n"
    assert {"python", "detexport", "onnxruntime"} <= read_json(artifacts(run) / "provenance.json")[
        "versions"
    ].keys()
    stored = mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/certificate.json")
    assert stored == read_json(certificate(root))
    assert stored["artifact"]["sha256"] == artifact.sha256
    model = client(root).get_logged_model(version.source.removeprefix("models:/"))
    assert {metric.key: metric.value for metric in model.metrics} == run.data.metrics
    assert (model.tags["detexport.format"], model.tags["detexport.method"]) == ("ONNX", "onnx")

    info = mlflow.models.get_model_info("models:/toy-onnx/1")
    assert [spec["name"] for spec in info.metadata["graph"]["outputs"]] == list(
        artifact.contract.output_names
    )
    assert info.metadata["graph"]["inputs"][0]["shape"] == [3, "H", "W"]
    assert info.signature.inputs.to_dict() == [{"type": "binary", "name": "image", "required": True}]
    outputs = ["boxes", "scores", "classes", "class_names", "masks", "height", "width"]
    assert info.signature.outputs.input_names() == outputs
    assert info.signature.params.to_dict()[0]["name"] == "score_threshold"


def test_the_input_example_runs_as_mlflow_would_serve_it(root: Path) -> None:
    register(root)
    (version,) = versions(root)
    mlflow.set_tracking_uri(f"sqlite:///{root}/mlflow.db")
    model = mlflow.pyfunc.load_model("models:/toy-onnx/1")
    example = model.input_example
    assert list(example.columns) == ["image"]
    serving = mlflow.models.convert_input_example_to_serving_input(example)
    assert json.loads(serving) == json.loads(
        (files(root, version) / "serving_input_example.json").read_text()
    )
    answer = mlflow.models.validate_serving_input(str(files(root, version)), serving)
    assert answer.equals(model.predict(example))
    assert [len(answer[name][0]) for name in ("boxes", "masks")] == [3, 3]
    assert (answer["height"][0], answer["width"][0]) == (40, 53)
    text = base64.b64encode(example["image"][0]).decode()
    both = pd.concat([answer, answer], ignore_index=True)
    assert model.predict({"image": [text, text]}).equals(both)
    assert model.predict(pd.DataFrame({"image": [text, text]})).equals(both)
    reduced = model.predict(example, params={"score_threshold": 0.5, "masks": False})
    assert list(reduced.columns) == [name for name in answer.columns if name != "masks"]
    assert 0 < len(reduced["boxes"][0]) < 3


def test_a_version_has_a_card(root: Path) -> None:
    register(root)
    (version,) = versions(root)
    for words in (
        "A detector: boxes, scores, classes, masks of each image, as ONNX.",
        "| runtime | ONNX Runtime, without torch |",
        "| classes | 3: circle, square, star |",
        "Resize: shortest edge to 40 px, longest at most 64 px.",
        "`score_threshold` (0 to 1; the model itself drops scores up to 0.25), `masks`",
        "**passed**, 1 of 1 inputs, 7 detections paired",
        "| cpu | 40 x 64 | 5.0 ms | 5.5 ms | 6.0 ms | 0.50 |",
        "At most 10 detections per image",
        "Code in this version: Apache-2.0. Weights: not stated.",
    ):
        assert words in version.description, words


def test_the_run_names_data_and_source(root: Path) -> None:
    entry = {"deps": [{"path": "src/x.py", "md5": "0"}, {"path": "data/shapes", "md5": "1" * 32 + ".dir"}]}
    lock = {"schema": "2.0", "stages": {"validate@toy-onnx": entry}}
    (root / "dvc.lock").write_text(json.dumps(lock))  # JSON is YAML
    register(root)
    (run,) = runs(root)
    (given,) = run.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("shapes", "1" * 32 + ".dir")
    assert json.loads(given.dataset.source) == {"uri": "data/shapes"}
    assert [(tag.key, tag.value) for tag in given.tags] == [("mlflow.data.context", "validation")]
    assert run.data.tags["mlflow.source.name"] == "stages/register.py"
    (version,) = versions(root)
    assert "| validated on | shapes |" in version.description
    provenance = read_json(artifacts(run) / "provenance.json")
    assert provenance["data"] == {"path": "data/shapes", "md5": "1" * 32 + ".dir"}
    assert provenance["dvc_lock"]["validate@toy-onnx"] is not None
    assert provenance["dvc_lock"]["export@toy-onnx"] is None


SMOKE = replace(FULL_PLAN, images=2, scales=(1.0, 1.5), accuracy_images=10)


@pytest.mark.parametrize(
    ("plan", "settings", "dvc_experiment", "reason"),
    [
        (
            SMOKE,
            RegistrySettings.of({}),
            "",
            "weaker than registry.plan: images: 2, required at least 8; scales",
        ),
        (FULL_PLAN, RegistrySettings.of({}), "woozy-mice", "it is the DVC experiment woozy-mice"),
        (FULL_PLAN, RegistrySettings.of({"release": False}), "", "registry.release is false"),
    ],
    ids=["weaker-plan", "dvc-experiment", "not-wanted"],
)
def test_an_experiment_is_a_run_and_no_version(
    root: Path, plan: ValidationPlan, settings: RegistrySettings, dvc_experiment: str, reason: str
) -> None:
    write_verdict(root, "onnx", toy_artifact(root), plan=plan)
    outcome = register(root, settings, dvc_experiment)
    assert register(root, settings, dvc_experiment) == outcome
    (entry,) = outcome["experiments"]
    assert (outcome["registered"], outcome["refused"]) == ([], [])
    assert reason in entry["reason"]
    assert client(root).search_registered_models() == []
    assert runs(root) == []
    (run,) = runs(root, "detexport-experiments")
    assert (run.info.run_id, run.info.status) == (entry["run_id"], "FINISHED")
    assert run.data.tags["detexport.no_release"] == entry["reason"]
    assert run.data.metrics["latency_cpu_p50_ms"] == 5.0
    (output,) = run.outputs.model_outputs
    assert mlflow.pyfunc.load_model(f"models:/{output.model_id}").metadata.signature


def test_the_user_decides_what_is_a_release(root: Path) -> None:
    always = RegistrySettings.of({"release": True})
    assert register(root, always, "woozy-mice")["registered"][0]["version"] == "1"
    # But not with a weaker plan than the registry asks for.
    write_verdict(root, "onnx", toy_artifact(root), plan=SMOKE)
    (refused,) = register(root, always)["refused"]
    assert "weaker than registry.plan: images: 2" in refused["reasons"][0]
    lowered = replace(always, plan=replace(always.plan, images=2, scales=(1.0,), accuracy_images=10))
    assert register(root, lowered)["registered"][0]["version"] == "1"


def test_the_challenger_is_the_newest_version(root: Path) -> None:
    register(root)
    write_target(root, "onnx", weights_sha256="c" * 64)
    register(root)
    write_target(root, "onnx")
    assert register(root)["registered"][0]["version"] == "1"
    assert client(root).get_registered_model("toy-onnx").aliases == {"challenger": 2}


def test_the_same_content_is_found_again(root: Path) -> None:
    first = register(root)
    (run,) = runs(root)
    assert register(root) == first
    assert len(versions(root)) == 1
    assert [r.info.run_id for r in runs(root)] == [run.info.run_id]


def test_another_artifact_runtime_or_code_is_another_version(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(root)
    write_target(root, "onnx", weights_sha256="c" * 64)
    assert register(root)["registered"][0]["version"] == "2"
    monkeypatch.setattr(Content, "code", {"errors.py": "0"})
    content = Content(toy_artifact(root), toy_job(root).runtime)
    other = Content(toy_artifact(root), toy_job(root).runtime | {"threads": 2})
    assert (
        len({content.sha256, other.sha256, *(v.tags["detexport.content_sha256"] for v in versions(root))})
        == 4
    )


def test_new_measurements_renew_the_version_that_is_there(root: Path) -> None:
    register(root)
    latency = read_json(folder(root) / "latency.json")
    latency["devices"]["cpu"]["runners"]["onnx"]["p50_ms"] = 77.0
    write_json(folder(root) / "latency.json", latency)
    register(root)
    (version,) = versions(root)
    assert "77.0 ms" in version.description
    assert runs(root)[0].data.metrics["latency_cpu_p50_ms"] == 77.0


def test_latency_of_another_artifact_is_not_told(root: Path) -> None:
    write_target(root, "onnx", weights_sha256="c" * 64)
    register(root)
    (version,) = versions(root)
    assert "Not measured." in version.description
    assert not [name for name in runs(root)[0].data.metrics if name.startswith("latency")]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda root: (folder(root) / "parity" / "onnx.json").unlink(), "not validated: there is no"),
        (
            lambda root: write_verdict(root, "onnx", toy_artifact(root), passed=False, reasons=["0-1x: off"]),
            "did not pass",
        ),
        (
            lambda root: write_verdict(root, "onnx", replace(toy_artifact(root), weights_sha256="d" * 64)),
            "the certificate is about another artifact",
        ),
        (lambda root: certificate(root).unlink(), "is not a certificate"),
        (lambda root: edit(certificate(root), job="another"), "was edited"),
        (lambda root: edit(folder(root) / "parity/onnx.json", job="another"), "about another verdict"),
        (
            lambda root: write_verdict(root, "onnx", toy_artifact(root), job="toy-openvino"),
            "about another job: toy-openvino",
        ),
        (lambda root: certify_anew(root, threads=8), "about another runtime"),
        (
            lambda root: (folder(root) / "artifacts/onnx/model.onnx").write_bytes(b"x"),
            "is not the file that was exported",
        ),
        (lambda root: shutil.rmtree(folder(root) / "artifacts"), "is not an artifact"),
    ],
    ids=[
        "no-verdict",
        "failed",
        "other-artifact",
        "no-certificate",
        "edited-certificate",
        "edited-verdict",
        "other-job",
        "other-runtime",
        "changed-file",
        "no-artifact",
    ],
)
def test_what_did_not_pass_is_refused_with_its_reasons(root: Path, spoil: Any, reason: str) -> None:
    spoil(root)
    outcome = register(root)
    assert outcome["registered"] == []
    (refused,) = outcome["refused"]
    assert refused["job"] == "toy-onnx"
    assert reason in refused["reasons"][0]
    assert versions(root) == []
    assert runs(root) == []


@pytest.mark.parametrize(
    "lost", ["artifacts/onnx/model.onnx", "code/detexport/processing/postprocess.py", "MLmodel", "."]
)
def test_a_version_without_its_files_gives_way_to_a_new_one(root: Path, lost: str) -> None:
    register(root)
    (version,) = versions(root)
    client(root).set_registered_model_alias("toy-onnx", "champion", version.version)
    path = files(root, version) / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert register(root)["registered"][0]["version"] == "2"
    (version,) = versions(root)
    assert (files(root, version) / "artifacts/onnx/model.onnx").is_file()
    assert sorted(version.aliases) == ["challenger", "champion"]


def test_of_two_versions_with_one_content_the_lower_stays(root: Path) -> None:
    register(root)
    (first,) = versions(root)
    client(root).create_model_version(
        "toy-onnx", source=first.source, run_id=first.run_id, tags=dict(first.tags)
    )
    client(root).set_registered_model_alias("toy-onnx", "champion", "2")
    assert len(versions(root)) == 2
    assert register(root)["registered"][0]["version"] == "1"
    (kept,) = versions(root)
    assert sorted(kept.aliases) == ["challenger", "champion"]


def test_what_a_killed_registration_left_is_removed(root: Path) -> None:
    register(root)
    (version,) = versions(root)
    api = client(root)
    # Killed after its version was made; killed after its files were stored.
    api.update_run(version.run_id, status="RUNNING")
    experiment = api.get_experiment_by_name("detexport")
    run = api.create_run(experiment.experiment_id, tags={"detexport.registered_name": "toy-onnx"})
    model = api.create_logged_model(experiment.experiment_id, name="detector", source_run_id=run.info.run_id)
    api.log_outputs(run.info.run_id, [mlflow.entities.LoggedModelOutput(model.model_id, step=0)])
    api.log_model_artifacts(model.model_id, str(files(root, version)))
    stored = Path(model.artifact_location.removeprefix("file://"))
    assert (stored / "MLmodel").is_file()
    foreign = api.create_run(experiment.experiment_id)

    register(root)
    assert api.get_run(version.run_id).info.status == "FINISHED"
    assert api.get_run(run.info.run_id).info.lifecycle_stage == "deleted"
    assert not stored.exists()
    assert api.get_run(foreign.info.run_id).info.lifecycle_stage == "active"  # not ours
    assert [v.run_id for v in versions(root)] == [version.run_id]


def test_a_workspace_that_was_moved_does_not_write_to_its_old_place(root: Path, tmp_path: Path) -> None:
    register(root)
    moved = tmp_path / "moved"
    root.rename(moved)
    assert register(moved)["registered"][0]["version"] == "2"
    (version,) = versions(moved)
    assert files(moved, version).is_relative_to(moved)
    assert not root.exists()


def test_a_store_that_is_none_is_told(root: Path) -> None:
    (root / "mlflow.db").write_text("not a database")
    with pytest.raises(RegistryError, match=r"mlflow\.db cannot be used"):
        register(root)


def test_the_last_of_parameter_variable_and_default_wins(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = f"sqlite:///{shutil.copyfile(root / 'mlflow.db', tmp_path / 'chosen.db')}"
    with open_store(tmp_path / "no", tracking_uri=chosen, experiment="detexport") as store:
        assert store.uri == chosen
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/mlflow.db")
        with open_store(tmp_path / "no", tracking_uri=chosen, experiment="detexport") as store:
            assert store.uri == f"sqlite:///{root}/mlflow.db"
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("sqlite:////no/such/folder/mlflow.db", "unable to open database file"),
        ("postgresql+nodriver://u:secret@127.0.0.1/db", "nodriver"),
        ("carrier-pigeon://host", "unsupported URI"),
    ],
)
def test_a_store_that_cannot_be_used_is_told(tmp_path: Path, uri: str, reason: str) -> None:
    with (
        pytest.raises(RegistryError, match=reason) as caught,
        open_store(tmp_path, tracking_uri=uri, experiment="detexport"),
    ):
        pass
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "absolute"),
    [
        ("sqlite:///a.db", "sqlite:////w/a.db"),
        ("sqlite:////b/a.db", "sqlite:////b/a.db"),
        ("./mlruns", "/w/mlruns"),
        ("http://host:5000", "http://host:5000"),
        ("postgresql://u:p@host/db", "postgresql://u:p@host/db"),
        ("databricks", "databricks"),
    ],
)
def test_a_relative_store_lies_in_the_workspace(uri: str, absolute: str) -> None:
    assert absolute_uri(uri, Path("/w")) == absolute


def test_the_code_that_is_addressed_is_the_code_that_is_imported(root: Path) -> None:
    content = Content(toy_artifact(root), toy_job(root).runtime)
    script = (
        "import sys, runpy, json; runpy.run_path(sys.argv[1]); import detexport.runtime.onnxruntime;"
        "ours = [m.__file__ for n, m in sys.modules.items() if n.split('.')[0] == 'detexport'];"
        "print(json.dumps(ours))"
    )
    pyfunc = next(path for path in content.sources if path.name == "pyfunc.py")
    done = subprocess.run(
        [sys.executable, "-c", script, str(pyfunc)], capture_output=True, text=True, check=True
    )
    assert sorted(map(str, content.sources)) == sorted([*json.loads(done.stdout), str(pyfunc)])
    assert {"numpy", "onnxruntime", "pycocotools"} <= {r.partition("==")[0] for r in content.requirements}
    assert "torch" not in {r.partition("==")[0] for r in content.requirements}


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "torchscript"])
def test_a_version_requires_its_runtime(root: Path, runtime: str) -> None:
    target = {"_target_": f"detexport.runtime.{runtime}.Engine"}
    names = {one.partition("==")[0] for one in Content(toy_artifact(root), target).requirements}
    runtimes = {"onnxruntime", "openvino", "torch"}
    assert names & runtimes == {"torch" if runtime == "torchscript" else runtime}


ADDRESSES = st.one_of(
    st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20),
    st.builds(
        "{}://{}{}".format,
        st.sampled_from(["file", "sqlite", "databricks", "mysql+x", "nosuch", "http+unix", "s3", ""]),
        st.sampled_from(["", "/", "u:p@", "[", "[::1]:x", "%zz", "/nowhere/"]),
        st.text(alphabet="ab/:@?#%[] ", max_size=6),
    ),
)


def open_any(root: Path, address: str) -> None:
    """Open whatever an address names: a store, or one error of one short line."""
    start = time.monotonic()
    try:
        with open_store(root, experiment="x"):
            pass
    except RegistryError as error:
        lines, length = len(str(error).splitlines()), len(str(error))
        assert (lines, length <= 1_000) == (1, True)
    assert time.monotonic() - start < 60, address


def check_addresses(root: Path, examples: int) -> None:
    @settings(max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(address=ADDRESSES)
    def check(address: str) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(root)
            patch.setenv("MLFLOW_TRACKING_URI", address)
            open_any(root, address)

    check()


def test_whatever_the_address_is_a_store_opens_or_one_error_is_raised(root: Path) -> None:
    check_addresses(root, 15)


@pytest.mark.slow
def test_hundreds_of_addresses(root: Path) -> None:
    check_addresses(root, 500)


def test_a_password_in_the_parameters_is_refused(root: Path) -> None:
    with (
        pytest.raises(RegistryError, match="holds a user, a password or a query") as raised,
        open_store(root, tracking_uri="http://bob:s3cr3t@host", experiment="x"),
    ):
        pass
    assert "s3cr3t" not in str(raised.value)
