"""conf/ composes, params.yaml is its composition, and an edit of either is noticed."""

import shlex
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
import yaml

from detexport.config.composition import check_composition
from detexport.errors import ConfigError
from detexport.model_zoo import get_checkpoint_url, get_config
from detexport.model_zoo.zoo import URL_PREFIX

ROOT = Path(__file__).parents[2]
GIVEN = {
    "model": {
        "mine": ["models.mine.config_file=a.yaml", "models.mine.weights=a.pth"],
        "torchvision": [
            "models.torchvision.config.MODEL.TORCHVISION.NAME=fcos_resnet50_fpn",
            "models.torchvision.weights=a.pth",
        ],
    },
    "data": {"coco_folder": ["data.name=own", "data.source=own"]},
}
LISTS = ("model", "export")
GIT = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]
# The official models differ in names alone: they are composed together.
OFFICIAL = sorted(
    path.stem for path in (ROOT / "conf/model").glob("*.yaml") if "model_zoo/configs" in path.read_text()
)
OPTIONS = sorted(
    (path.parent.name, path.stem)
    for path in (ROOT / "conf").glob("*/*.yaml")
    if path.parent.name not in ("detectron2", "torchvision", "class_names") and path.stem not in OFFICIAL
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The parts of the repository that a composition reads."""
    for name in ("conf", "stages", "tools", "hydra_plugins"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    configs = "src/detexport/model_zoo/configs"
    shutil.copytree(ROOT / configs, tmp_path / configs)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "checkpoints").symlink_to(ROOT / "checkpoints")
    for name in ("src/detexport/data/synthetic", "own"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("a.yaml", "a.pth"):
        (tmp_path / name).write_text("{}")
    return tmp_path


def prefix(program: str) -> list[str]:
    """DVC as this interpreter's module, other programs by their name."""
    return [sys.executable, "-m", "dvc"] if program == "dvc" else [program]


def compose(tree: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "tools/compose.py", *overrides],
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )


def params(tree: Path) -> dict:
    return yaml.safe_load((tree / "params.yaml").read_text())


def test_the_committed_params_are_a_fresh_composition_of_the_defaults(tree: Path) -> None:
    committed = (tree / "params.yaml").read_text()
    assert compose(tree).returncode == 0
    assert (tree / "params.yaml").read_text() == committed


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes(tree: Path, group: str, option: str) -> None:
    choice = f"{group}=[{option}]" if group in LISTS else f"{group}={option}"
    done = compose(tree, choice, *GIVEN.get(group, {}).get(option, []))
    assert done.returncode == 0, done.stderr
    check_composition(tree / "params.yaml", tree / "conf")


def test_the_official_models_are_those_of_the_zoo(tree: Path) -> None:
    done = compose(tree, f"model=[{','.join(OFFICIAL)}]", "export=[onnx]")
    assert done.returncode == 0, done.stderr
    check_composition(tree / "params.yaml", tree / "conf")
    models = params(tree)["models"]
    assert list(models) == OFFICIAL
    for model in models.values():
        name = model["config_file"].removeprefix("src/detexport/model_zoo/configs/")
        url = get_checkpoint_url(name).removeprefix(URL_PREFIX)
        assert model["weights"] == f"detectron2://{url}"
        assert model["training"] is None
        if (names := model["class_names"]) is not None:
            node = get_config(name).MODEL
            group = node.RETINANET if node.META_ARCHITECTURE == "RetinaNet" else node.ROI_HEADS
            given = names if isinstance(names, dict) else {"things": names}
            counts = {"things": group.NUM_CLASSES, "stuff": node.SEM_SEG_HEAD.NUM_CLASSES}
            assert all(len(set(found)) == len(found) == counts[kind] for kind, found in given.items())


def test_an_official_model_takes_the_class_names_that_one_gives_it(tree: Path) -> None:
    name = "faster_rcnn_R_50_FPN_3x"
    assert compose(tree, f"model=[{name}]", f"models.{name}.class_names=[cat]").returncode == 0
    assert params(tree)["models"][name]["class_names"] == ["cat"]


def test_selected_targets_bring_their_artifacts_and_no_others(tree: Path) -> None:
    assert compose(tree, "export=[onnx]").returncode == 0
    assert params(tree)["jobs"] == {
        "mask_rcnn-onnx": {"model": "mask_rcnn", "target": "onnx", "artifact": "onnx"}
    }
    assert params(tree)["exports"] == {"mask_rcnn-onnx": {"model": "mask_rcnn", "artifact": "onnx"}}


def test_a_job_knows_the_options_of_all_that_makes_its_artifact(tree: Path) -> None:
    selected = "export=[tracing,onnx,openvino_int8]"
    assert compose(tree, selected).returncode == 0
    before = params(tree)
    assert {artifact: list(chain) for artifact, chain in before["export_steps"].items()} == {
        "tracing": ["tracing"],
        "onnx": ["onnx"],
        "openvino_int8": ["onnx", "openvino", "openvino_int8"],
    }
    chain = before["export_steps"]["openvino_int8"]
    assert chain["onnx"] == before["artifacts"]["onnx"]["method"]
    assert chain["openvino"] == before["artifacts"]["openvino"]["conversion"]
    assert compose(tree, selected, "artifacts.openvino.conversion.compress_to_fp16=true").returncode == 0
    after = params(tree)["export_steps"]
    assert [artifact for artifact in after if after[artifact] != before["export_steps"][artifact]] == [
        "openvino_int8"
    ]


def test_a_pair_that_is_declared_unsupported_is_left_out_with_its_reason(tree: Path) -> None:
    (tree / "conf/unsupported.yaml").write_text(
        "unsupported:\n"
        "  - {models: [mask*], targets: [onnx, scripting], reason: a loop, upstream: issue 7}\n"
        "  - {models: [retinanet], targets: [tracing], reason: another}\n"
    )
    assert compose(tree, "model=[mask_rcnn,pointrend]").returncode == 0
    composed = params(tree)
    assert list(composed["jobs"]) == ["mask_rcnn-tracing", *(f"pointrend-{t}" for t in composed["targets"])]
    declared = {"reason": "a loop", "upstream": "issue 7"}
    assert composed["left_out"] == {"mask_rcnn-scripting": declared, "mask_rcnn-onnx": declared}


def test_paths_that_a_shell_would_split_are_quoted_for_it(tree: Path) -> None:
    file = "My Drive/it's $HOME [1] #ä.yaml"
    (tree / "My Drive").mkdir()
    (tree / file).write_text("{}")
    assert compose(tree, f'models.mask_rcnn.config_file="{file}"').returncode == 0
    (training,) = params(tree)["trainings"].values()
    assert training["config_file"] == file
    assert shlex.split(training["quoted"]["config_file"]) == [file]
    assert training["quoted"]["weights"] == training["weights"] == "checkpoints/mask_rcnn.safetensors"


def test_coverage_trains_no_model_on_its_data(tree: Path) -> None:
    assert compose(tree, "experiment=coverage").returncode == 0
    assert params(tree)["trainings"] == {}
    assert params(tree)["data"]["name"] != "shapes"


def test_a_model_that_comes_trained_has_no_training(tree: Path) -> None:
    assert compose(tree, "model=[mine]", *GIVEN["model"]["mine"]).returncode == 0
    assert params(tree)["trainings"] == params(tree)["fine_tuned"] == {}
    assert list(params(tree)["jobs"]) == ["mine-tracing", "mine-scripting", "mine-onnx"]


def test_weights_with_an_address_are_downloaded_to_a_file(tree: Path) -> None:
    address = f"detectron2://COCO-Detection/model_final.pkl#sha256={'0' * 64}"
    config = "models.mine.config_file=a.yaml"
    assert compose(tree, "model=[mine]", config, f"models.mine.weights='{address}'").returncode == 0
    composed = params(tree)
    assert composed["models"]["mine"]["weights"] == address
    assert composed["checkpoints"] == composed["downloads"] == {"mine": "downloads/mine"}
    check_composition(tree / "params.yaml", tree / "conf")
    assert compose(tree, "model=[mine]", *GIVEN["model"]["mine"]).returncode == 0
    assert params(tree)["checkpoints"] == {"mine": "a.pth"}
    assert params(tree)["downloads"] == {}


def test_a_checkpoint_is_fine_tuned_with_the_configuration_beside_it(tree: Path) -> None:
    (tree / "own/config.yaml").write_text("{}")
    (tree / "own/model_final.pth").write_text("weights")
    assert compose(tree, "model=[mine]", "models.mine.training.from=own/model_final.pth").returncode == 0
    composed = params(tree)
    assert composed["trainings"] == {}
    (training,) = composed["fine_tuned"].values()
    assert training["config_file"] == "own/config.yaml"
    assert training["weights"] == composed["checkpoints"]["mine"] == "checkpoints/mine.safetensors"
    assert composed["fine_tunings"]["mine"] == {
        "checkpoint": "own/model_final.pth",
        "sha256": sha256(b"weights").hexdigest()[:12],
        "config": {},
        "new_parameters": [],
    }
    check_composition(tree / "params.yaml", tree / "conf")
    (tree / "own/model_final.pth").write_text("other weights")
    with pytest.raises(ConfigError, match="a checkpoint that a training starts from has changed; got: mine"):
        check_composition(tree / "params.yaml", tree / "conf")


def test_all_models_have_the_same_options() -> None:
    options = [yaml.safe_load(path.read_text()) for path in (ROOT / "conf/model").glob("*.yaml")]
    # Class names that many models share come from the option's defaults.
    keys = {frozenset("class_names" if key == "defaults" else key for key in option) for option in options}
    assert keys == {frozenset(options[0]) - {"defaults"} | {"class_names"}}


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["export=[tensorrt_on_the_moon]"], "tensorrt_on_the_moon"),
        (["model=[retinanett]"], "did you mean 'retinanet'?"),
        (["model=retinanett"], "did you mean 'retinanet'?"),
        (["export=[onxx]"], "conf/export/ has no option 'onxx'; got: export=onxx; expected: one of onnx, "),
        (["experiment=smok"], "expected: one of smoke, coverage; remedy: did you mean 'smoke'?"),
        (["modle=[retinanet]"], "did you mean 'model'?"),
        (["benchmark.rouns=3"], "did you mean 'benchmark.rounds'?"),
        (["model=[mine]", "models.mine.config_fil=a"], "did you mean 'models.mine.config_file'?"),
        (["artifacts.onnx.method.opset=18"], "did you mean 'artifacts.onnx.method.opset_version'?"),
        (["targets.onnx.runtime.threads=2"], "a new key is added by +targets.onnx.runtime.threads=VALUE"),
        (["model=[mask_rcnn"], "an override cannot be read; got: 'model=[mask_rcnn'"),
        (["~model"], "conf/ cannot be composed; got: Could not delete 'model'"),
        (["data.source=${oc.env:NOT_THERE}"], "NOT_THERE"),
        (["models.mask_rcnn.class_names=[0,1]"], "0, which is not a string, 1, which is not a string"),
        (
            ["models.mask_rcnn.class_names=[true,null,a]"],
            "True, which is not a string, None, which is not a string",
        ),
        (["models.mask_rcnn.class_names=abc"], "'abc', which is not a list"),
        (["models.mask_rcnn.class_names=['']"], "an empty name"),
        (["models.mask_rcnn.class_names={things:[1]}"], "models.mask_rcnn.class_names.things are not names"),
        (["models.mask_rcnn.class_names={thing:[a]}"], "did you mean 'things'?"),
        (["data.categories=[1,2]"], "data.categories are not names of classes"),
        (["data.name='a b'"], "data.name cannot be the name of a folder"),
        (["+models.'a b'={}"], "an override cannot be read"),
        (["model=[mine]"], "models.mine.config_file: ???, models.mine.weights: ???"),
        (
            ["model=[mine]", "models.mine.training.from=https://host/a.pth"],
            "got: models.mine.config_file: ???;",
        ),
        (
            ["model=[mine]", "models.mine.training.from=b.pth"],
            "models.mine.config_file=config.yaml: no such file",
        ),
        (
            ["model=[mine]", "models.mine.config_file=a.yaml", "models.mine.training.from=b.pth"],
            "models.mine.training.from=b.pth: no such file",
        ),
        (["model=[torchvision]"], "models.torchvision.config.MODEL.TORCHVISION.NAME"),
        (["artifacts.onnx.method.opset=18"], "opset"),
        (["data.source=nowhere"], "data.source=nowhere"),
        (
            ["artifacts.openvino.source=onxx", "export=[openvino]"],
            "no file of conf/export/ defines; got: onxx",
        ),
        (["models.mask_rcnn.weights=https://host/a.pth"], "models.mask_rcnn.weights=https://host/a.pth"),
    ],
)
def test_what_cannot_be_composed_is_one_line_and_changes_nothing(
    tree: Path, overrides: list[str], named: str
) -> None:
    before = (tree / "params.yaml").read_text()
    done = compose(tree, *overrides)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert named in done.stderr
    assert (tree / "params.yaml").read_text() == before


def test_through_dvc_a_misspelt_option_is_no_unexpected_error(tree: Path) -> None:
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"], ["dvc", "config", "hydra.enabled", "True"]):
        subprocess.run([*prefix(command[0]), *command[1:]], cwd=tree, check=True, capture_output=True)
    shutil.copy(ROOT / "dvc.yaml", tree)
    commands = [["git", "add", "-A"], [*GIT, "commit", "-qm", "all"]]
    for command in commands:
        subprocess.run(command, cwd=tree, check=True, capture_output=True)
    done = subprocess.run(
        [*prefix("dvc"), "exp", "run", "-S", "model=[retinanett]"],
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "did you mean 'retinanet'?" in done.stderr
    assert "unexpected error" not in done.stderr
    assert "Hit us up" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("edited", ["params.yaml", "conf/benchmark/default.yaml"])
def test_an_edit_is_noticed(tree: Path, edited: str) -> None:
    assert compose(tree, "--check").returncode == 0
    path = tree / edited
    path.write_text(path.read_text().replace("rounds: 60", "rounds: 61"))
    done = compose(tree, "--check")
    assert done.returncode == 2
    assert "make params" in done.stderr
    with pytest.raises(ConfigError, match="not a composition"):
        check_composition(tree / "params.yaml", tree / "conf")


@pytest.mark.parametrize("content", ["", "- 1", "a: [", "composition: x", "models: {m: {}}"])
def test_what_is_no_composition_at_all_is_said_in_one_line(tree: Path, content: str) -> None:
    (tree / "params.yaml").write_text(content)
    done = compose(tree, "--check")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("choice", ["export=[]", "model=[]"])
def test_a_selection_of_nothing_is_refused(tree: Path, choice: str) -> None:
    done = compose(tree, choice)
    assert done.returncode == 2
    assert "nothing is selected" in done.stderr


def test_an_override_is_not_an_edit(tree: Path) -> None:
    assert compose(tree, "artifacts.onnx.method.opset_version=18", "export=[onnx]").returncode == 0
    assert params(tree)["artifacts"]["onnx"]["method"]["opset_version"] == 18
    assert compose(tree, "--check").returncode == 0


@pytest.mark.parametrize(
    "override",
    [
        "data.categories=[1,2]",
        "data.categories=[cat,true]",
        "data.categories=cat",
        "models.mine.class_names=[0,1]",
        "models.mine.class_names=ab",
        "models.mine.class_names={things: [a, null]}",
    ],
)
def test_class_names_that_yaml_reads_as_something_else(tree: Path, override: str) -> None:
    done = compose(tree, "model=[mine]", *GIVEN["model"]["mine"], override)
    key = override.partition("=")[0]
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert f"error: {key}" in done.stderr
    assert "; remedy: " in done.stderr


def test_class_names_in_quotes(tree: Path) -> None:
    done = compose(tree, "model=[mine]", *GIVEN["model"]["mine"], "models.mine.class_names=['1','no']")
    assert done.returncode == 0, done.stderr
    assert params(tree)["models"]["mine"]["class_names"] == ["1", "no"]


def test_a_wrong_key_is_reported_also_where_the_defaults_do_not_compose(tree: Path) -> None:
    config = tree / "conf/config.yaml"
    config.write_text(
        config.read_text().replace("  - data: shapes\n", "  - data: shapes\n  - data@spare: nowhere\n")
    )
    done = compose(tree, "data@spare=shapes", "nokey=3")
    assert done.returncode == 2
    assert done.stderr.startswith("error: conf/ has no key 'nokey'; got: nokey; ")
    assert done.stderr.count("\n") == 1
