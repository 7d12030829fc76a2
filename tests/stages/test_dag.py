"""The real stages, run by DVC on a user's own model: a scratch repository, two targets, three images."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import yaml

ROOT = Path(__file__).parents[2]
# The checkout and the model's files lie where people keep theirs: a shell would split or expand the names.
CLONE = "it's my Drive [1] $HOME #é"
WEIGHTS = "own/it's model (1) [final] $HOME #é.safetensors"
MODEL = [
    "model=[mine]",
    "models.mine.config_file=own/config.yaml",
    f'models.mine.weights="{WEIGHTS}"',
    "export=[tracing,scripting]",
    "data.dataset.train_images=1",
    "data.dataset.val_images=4",
    "parity.images=2",
    "parity.scales=[1.0,1.5]",
    # Neither what `dvc exp run` made nor so small a plan is a release, unless the user says so.
    "registry.release=true",
    "registry.plan.images=2",
    "registry.plan.scales=[1.0,1.5]",
    "registry.plan.accuracy_images=4",
    "benchmark.warmup=1",
    "benchmark.rounds=3",
]

COMMITTER = {f"GIT_{who}_{what}": "t" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
# The columns of one job, as in docs/tracking.md.
ONE_JOB = "(?!Experiment|jobs/mine-tracing.json:(ap|p50_ms)$)"
UP_TO_DATE = "Data and pipelines are up to date."
CHROMIUM = shutil.which("chromium") or ""

LOOK_AT_REGISTRY = """
import json, sys
from pathlib import Path
import mlflow, numpy as np
receipts = json.loads(Path("outputs/registered.json").read_text())
mlflow.set_tracking_uri(receipts["tracking_uri"])
client = mlflow.MlflowClient()
found = {}
for entry in receipts["registered"]:
    versions = client.search_model_versions(f"name='{entry['name']}'")
    model = mlflow.pyfunc.load_model(f"models:/{entry['name']}/{entry['version']}")
    image = sorted(Path("data/shapes/images/val").iterdir())[0]
    import pandas as pd
    row = model.predict(pd.DataFrame({"image": [image.read_bytes()]}))
    row = row.iloc[0].to_dict() if hasattr(row, "iloc") else row[0]
    found[entry["name"]] = {
        "versions": len(versions),
        "inputs": model.metadata.signature.inputs.input_names(),
        "outputs": model.metadata.signature.outputs.input_names(),
        "boxes": np.asarray(list(row["boxes"])).reshape(-1, 4).tolist(),
        "scores": [float(score) for score in row["scores"]],
    }
print(json.dumps(found))
"""


def run(repo: Path, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """A command in the scratch repository, with this interpreter first on the path and no server set."""
    done = subprocess.run(command, cwd=repo, env=environment(), capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise AssertionError(f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return done


def environment() -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if name not in ("MLFLOW_TRACKING_URI", "DVC_ROOT")
    }
    return {**kept, **COMMITTER, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def dvc(repo: Path, *command: str) -> str:
    return run(repo, "dvc", *command).stdout


def stages_run(done: subprocess.CompletedProcess[str]) -> set[str]:
    return set(re.findall(r"Running stage '([^']+)'", done.stdout))


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the working tree with a model of one's own, run once by `dvc exp run`."""
    folder = tmp_path_factory.mktemp("dag") / CLONE
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        is_read = name == "docs/coverage.json" or not name.startswith(("tests/", "docs/"))
        if is_read and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    (folder / "own").mkdir()
    shutil.copy(ROOT / "conf/detectron2/mask_rcnn.yaml", folder / "own/config.yaml")
    shutil.copy(ROOT / "checkpoints/mask_rcnn.safetensors", folder / WEIGHTS)
    (folder / "dvc.lock").unlink(missing_ok=True)
    for command in (
        ["init", "-q", "-b", "main"],
        ["add", "-A"],
        ["commit", "-qm", "all"],
    ):
        run(folder, "git", *command)
    run(folder, "dvc", "exp", "run", *(part for override in MODEL for part in ("-S", override)))
    return folder


def receipts(repo: Path) -> dict:
    return json.loads((repo / "outputs/registered.json").read_text())


def compose(repo: Path, *overrides: str) -> None:
    run(repo, sys.executable, "tools/compose.py", *MODEL, *overrides)


def test_one_run_registers_every_target_and_writes_the_report(repo: Path) -> None:
    assert [entry["name"] for entry in receipts(repo)["registered"]] == ["mine-tracing", "mine-scripting"]
    assert receipts(repo)["refused"] == []
    page = (repo / "reports/index.html").read_text()
    assert "mine-tracing" in page
    assert "mine-scripting" in page


def test_a_fresh_process_predicts_from_the_registry_what_eager_detects(repo: Path) -> None:
    found = json.loads(run(repo, sys.executable, "-c", LOOK_AT_REGISTRY).stdout.splitlines()[-1])
    import numpy as np

    with np.load(repo / "outputs/models/mine/reference/samples/000001-1x.npz") as expected:
        boxes, scores = expected["pred_boxes"], expected["scores"]
    assert len(scores) > 0
    for name in ("mine-tracing", "mine-scripting"):
        assert found[name]["versions"] == 1
        assert found[name]["inputs"] == ["image"]
        assert {"boxes", "scores", "class_names", "masks"} <= set(found[name]["outputs"])
        np.testing.assert_allclose(found[name]["scores"], scores, atol=2e-4)
        np.testing.assert_allclose(found[name]["boxes"], boxes, atol=1e-2)


def test_a_second_run_does_no_stages_work_again(repo: Path) -> None:
    before = (repo / "outputs/registered.json").read_bytes(), (repo / "dvc.lock").read_bytes()
    assert stages_run(run(repo, "dvc", "repro")) == set()
    assert ((repo / "outputs/registered.json").read_bytes(), (repo / "dvc.lock").read_bytes()) == before


def test_what_another_selection_left_does_not_make_the_benchmark_stale(repo: Path) -> None:
    left = repo / "outputs/models/mine/artifacts/left"
    shutil.copytree(repo / "outputs/models/mine/artifacts/tracing", left)
    assert stages_run(run(repo, "dvc", "repro")) == {"benchmark_targets@mine"}
    assert not left.exists()


@pytest.fixture(scope="module")
def shared(repo: Path) -> Path:
    """The repository, with the results of its run committed."""
    run(repo, "git", "tag", "before")
    run(repo, "git", "add", "dvc.lock")
    run(repo, "git", "commit", "-qam", "results")
    return repo


@pytest.fixture(scope="module")
def pulled(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second clone that pulled the results from a folder."""
    dvc(shared, "remote", "add", "--default", "store", str(tmp_path_factory.mktemp("store")))
    return second_clone(shared, tmp_path_factory.mktemp("clone"))


def second_clone(repo: Path, folder: Path) -> Path:
    """Push the results, clone the repository and pull them; nothing is to be run before and after that."""
    dvc(repo, "push")
    run(repo, "git", "commit", "-qam", "remote")
    run(repo, "git", "clone", "-q", ".", str(folder))
    assert UP_TO_DATE in dvc(folder, "repro", "--dry", "--allow-missing")
    dvc(folder, "pull")
    assert dvc(folder, "repro", "--dry").splitlines()[-1] == UP_TO_DATE
    assert run(folder, "git", "status", "--porcelain").stdout == ""
    return folder


def test_a_clone_that_pulled_from_a_folder_has_nothing_to_do(repo: Path, pulled: Path) -> None:
    for name in ("outputs/registered.json", "reports/index.html", "jobs/mine-tracing.json"):
        assert (pulled / name).read_bytes() == (repo / name).read_bytes()


def test_a_clone_with_another_registry_registers_and_does_nothing_else(repo: Path, pulled: Path) -> None:
    reason = f"the registry is sqlite:///{pulled}/mlflow.db, not sqlite:///{repo}/mlflow.db"
    checked = run(pulled, sys.executable, "tools/preflight.py")
    assert checked.stdout == f"{reason}: jobs are registered again\n"
    stale = json.loads(dvc(pulled, "status", "--json")).keys()
    assert stale == {"register", "promote", "report", "publish", "require_passed"}
    dvc(pulled, "checkout")


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    """The address of an S3-compatible server on the loopback interface, with a bucket ``models``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 120
        while time.monotonic() < until and process.poll() is None:
            with contextlib.suppress(requests.ConnectionError):
                requests.put(f"{address}/models", timeout=10).raise_for_status()
                break
            time.sleep(0.2)
        yield address
    finally:
        process.kill()
        process.wait()


def test_a_clone_that_pulled_from_s3_has_nothing_to_do(
    shared: Path, s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    dvc(shared, "remote", "add", "--default", "s3", "s3://models/detexport")
    dvc(shared, "remote", "modify", "s3", "endpointurl", s3_server)
    second_clone(shared, tmp_path / "clone")
    assert "s3://models/detexport" in dvc(tmp_path / "clone", "remote", "list")


def test_a_clone_without_results_lists_the_stages_that_it_would_run(shared: Path, tmp_path: Path) -> None:
    run(shared, "git", "clone", "-q", ".", str(tmp_path / "clone"))
    run(tmp_path / "clone", "git", "rm", "-q", "dvc.lock")
    listed = stages_run(run(tmp_path / "clone", "dvc", "repro", "--dry", "--force"))
    assert listed == set(dvc(shared, "stage", "list", "--name-only").split())


@pytest.mark.parametrize(
    "command",
    [
        ("dvc", "metrics", "show"),
        ("dvc", "metrics", "diff", "before"),
        ("dvc", "exp", "show", "--no-pager", "--num", "9", "--drop", ONE_JOB),
        (sys.executable, "tools/show_experiments.py", "--", "--num", "9"),
    ],
    ids=lambda command: " ".join(command[1:3]),
)
def test_tables_fit_a_terminal_of_120_columns(
    shared: Path, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    shown = run(shared, *command).stdout
    assert "tracing" in shown
    assert max(map(len, shown.splitlines())) <= 120, shown
    assert "\N{HORIZONTAL ELLIPSIS}" not in shown, "DVC cut it"


def test_a_difference_of_selections_fits_it_too(shared: Path) -> None:
    compose(shared, "export=[tracing]", "benchmark.rounds=7")
    shown = dvc(shared, "exp", "diff", "--no-path", "HEAD")
    compose(shared)
    rows = {line.split()[0]: line.split()[1:3] for line in shown.splitlines() if line}
    assert rows["benchmark.rounds"] == ["3", "7"]
    assert rows["targets.scripting.artifact"] == ["scripting", "-"]
    assert max(map(len, shown.splitlines())) <= 120, shown


@pytest.mark.skipif(not CHROMIUM, reason="Debian's chromium is not installed")
def test_a_browser_shows_the_plots(repo: Path, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    dvc(repo, "plots", "show", "--out", str(tmp_path / "plots"))
    seen: list[str] = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--headless", "--no-sandbox"])
        page = browser.new_page()
        page.on("console", lambda message: seen.append(message.text))
        page.on("pageerror", lambda error: seen.append(str(error)))
        page.on("request", lambda request: seen.append(request.url))
        page.goto((tmp_path / "plots/index.html").as_uri())
        drawn = page.eval_on_selector_all("img", "all => all.map(one => [one.src, one.naturalWidth])")
        browser.close()
    names = [source.rpartition("outputs_plots_")[2] for source, width in drawn if width > 0]
    assert sorted(names) == ["accuracy_by_class.svg", "accuracy_latency.svg", "latency.svg"]
    assert [one for one in seen if not one.startswith("file:")] == []


def test_an_option_of_one_artifact_leaves_the_others_as_they_are(repo: Path) -> None:
    compose(repo, "artifacts.tracing.method.graph_end=pasted")
    status = json.loads(run(repo, "dvc", "status", "--json").stdout)
    # Beside what changed there is the word that a stage is run every time.
    changed = {stage: [one for one in found if isinstance(one, dict)] for stage, found in status.items()}
    stale = {
        stage
        for stage, found in changed.items()
        for one in found
        if "params.yaml" in one.get("changed deps", {})
    }
    assert stale == {"export@mine-tracing", "diagnose@mine-tracing"}
    compose(repo)


@pytest.mark.slow
def test_an_option_of_one_target_runs_only_what_depends_on_it(repo: Path) -> None:
    compose(repo, "+targets.tracing.runtime.threads=2")  # as many as the benchmark's
    done = run(repo, "dvc", "repro")
    assert stages_run(done) == {
        "validate@mine-tracing",
        "diagnose@mine-tracing",
        "benchmark_targets@mine",
        "benchmark@mine",
        "metrics@mine-tracing",
        "metrics@mine-scripting",  # the latencies of both are measured together
        "plots",
        "register",
        "promote",  # another runtime is another version
        "report",
        "publish",
        "require_passed",
    }


def test_a_changed_base_of_the_configuration_is_noticed(repo: Path) -> None:
    (repo / "own/base.yaml").write_text(
        yaml.safe_dump({"_BASE_": "config.yaml", "TEST": {"DETECTIONS_PER_IMAGE": 9}})
    )
    (repo / "own/child.yaml").write_text(yaml.safe_dump({"_BASE_": "base.yaml"}))
    child = "models.mine.config_file=own/child.yaml"
    compose(repo, child)
    run(repo, "dvc", "repro", "build@mine")
    contract = repo / "outputs/models/mine/build/contract.json"
    assert json.loads(contract.read_text())["max_detections"] == 9
    (repo / "own/base.yaml").write_text(
        yaml.safe_dump({"_BASE_": "config.yaml", "TEST": {"DETECTIONS_PER_IMAGE": 7}})
    )
    checked = run(repo, sys.executable, "tools/compose.py", "--check", check=False)
    assert checked.returncode == 2
    assert "mine" in checked.stderr
    compose(repo, child)
    run(repo, "dvc", "repro", "build@mine")
    assert json.loads(contract.read_text())["max_detections"] == 7
    compose(repo)


@pytest.mark.slow
def test_a_deselected_target_leaves_the_results(repo: Path) -> None:
    compose(repo, "export=[tracing]")
    run(repo, "dvc", "repro")
    assert [entry["name"] for entry in receipts(repo)["registered"]] == ["mine-tracing"]
    assert "mine-scripting" not in (repo / "reports/index.html").read_text()


def test_what_does_not_pass_is_refused_with_evidence_and_fails_the_run(repo: Path) -> None:
    before = run(repo, sys.executable, "-c", COUNT_VERSIONS).stdout
    compose(repo, "parity.min_detections=1000000")
    done = run(repo, "dvc", "repro", check=False)
    assert done.returncode != 0
    assert "require_passed" in done.stderr + done.stdout
    assert [entry["job"] for entry in receipts(repo)["refused"]] == ["mine-tracing", "mine-scripting"]
    assert receipts(repo)["registered"] == []
    assert all(entry["reasons"] for entry in receipts(repo)["refused"])
    assert "did not pass" in (repo / "reports/index.html").read_text()
    assert run(repo, sys.executable, "-c", COUNT_VERSIONS).stdout == before
    compose(repo)
    run(repo, "dvc", "repro")


COUNT_VERSIONS = """
import mlflow
mlflow.set_tracking_uri("sqlite:///mlflow.db")
client = mlflow.MlflowClient()
for model in client.search_registered_models():
    print(model.name, sorted(int(v.version) for v in client.search_model_versions(f"name='{model.name}'")))
"""


def wait_until_at_work(process: subprocess.Popen, repo: Path, stage: str, leftovers: set[Path]) -> None:
    """Until a stage has begun to write, or for a moment where nothing shows that."""
    until = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < until:
        if stage == "register":
            time.sleep(2.5)  # about its look-up; tests/registry kills it at chosen moments
            return
        # A folder may go while it is listed.
        with contextlib.suppress(FileNotFoundError):
            if set(repo.glob("outputs/models/mine/**/.*.partial*")) - leftovers:
                return
        time.sleep(0.002)


@pytest.mark.parametrize(
    "stage", ["export", *(pytest.param(name, marks=pytest.mark.slow) for name in ("reference", "register"))]
)
def test_a_run_that_is_killed_is_completed_by_the_next(repo: Path, stage: str) -> None:
    versions = run(repo, sys.executable, "-c", COUNT_VERSIONS).stdout
    expected = (repo / "outputs/registered.json").read_bytes()
    digests = {
        p.parent.name: p.read_bytes()
        for p in (repo / "outputs/models/mine/artifacts").glob("*/artifact.json")
    }
    name = next(
        s for s in run(repo, "dvc", "stage", "list", "--name-only").stdout.split() if s.startswith(stage)
    )
    leftovers = set(repo.glob("outputs/models/mine/**/.*.partial*"))
    process = subprocess.Popen(
        ["dvc", "repro", "--force", "--single-item", name],
        cwd=repo,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_until_at_work(process, repo, stage, leftovers)
    assert process.poll() is None, "the stage ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    run(repo, "dvc", "repro")
    assert (repo / "outputs/registered.json").read_bytes() == expected
    assert run(repo, sys.executable, "-c", COUNT_VERSIONS).stdout == versions
    for folder, manifest in digests.items():
        assert (repo / "outputs/models/mine/artifacts" / folder / "artifact.json").read_bytes() == manifest
    for leftover in (repo / "outputs").rglob("*.partial*"):
        run(repo, "dvc", "check-ignore", str(leftover))  # exits with 1 if DVC would see it


@pytest.mark.parametrize(
    ("files", "overrides", "said"),
    [
        ({}, ["models.mine.weights=own/nowhere.pth"], "no such file"),
        ({}, ["export=[hologram]"], "hologram"),
        ({}, ["data.categories=[circle,unicorn]"], "unicorn"),
        (
            {"own/other.yaml": {"MODEL": {"ROI_HEADS": {"NUM_CLASSES": 9}}}},
            ["models.mine.config_file=own/other.yaml"],
            "9 things, as many as the model has",
        ),
        (
            {"own/wide.yaml": {"MODEL": {"FPN": {"OUT_CHANNELS": 64}}}},
            ["models.mine.config_file=own/wide.yaml"],
            "another shape",
        ),
        (
            {"own/typo.yaml": {"MODEL": {"ROI_HEADZ": {}}}},
            ["models.mine.config_file=own/typo.yaml"],
            "ROI_HEADZ",
        ),
    ],
)
def test_bad_input_is_said_in_one_message_and_registers_nothing(
    repo: Path, files: dict[str, dict], overrides: list[str], said: str
) -> None:
    versions = run(repo, sys.executable, "-c", COUNT_VERSIONS).stdout
    leftovers = set(repo.glob("outputs/**/*.partial*"))
    for name, tree in files.items():
        (repo / name).write_text(yaml.safe_dump({"_BASE_": "config.yaml", **tree}))
    composed = run(repo, sys.executable, "tools/compose.py", *MODEL, *overrides, check=False)
    done = composed if composed.returncode else run(repo, "dvc", "repro", check=False)
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert said in errors[0]
    assert "remedy: " in errors[0]
    assert "Traceback" not in done.stderr
    assert set(repo.glob("outputs/**/*.partial*")) <= leftovers
    assert run(repo, sys.executable, "-c", COUNT_VERSIONS).stdout == versions
    compose(repo)
