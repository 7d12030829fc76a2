"""A mistake in a request is named at once: before torch, or anything that imports it, is imported."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detexport.artifact import MANIFEST
from detexport.cli import app, run_command
from detexport.data.images import LIMIT_VARIABLE
from detexport.errors import LONGEST_MESSAGE
from fuzzing import fuzzed

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "conf/detectron2/faster_rcnn.yaml")
RETINANET = str(ROOT / "conf/detectron2/retinanet.yaml")
WEIGHTS = str(ROOT / "checkpoints/faster_rcnn.safetensors")
IMAGE = str(ROOT / "src/detexport/data/sample.png")
EXPORT = ("export", "--config-file", CONFIG, "--weights", WEIGHTS, "--output", "out")
ONNX = (*EXPORT, "--target", "onnx")
VALIDATE = ("validate", "artifact", "--data", "data", "--config-file", CONFIG, "--weights", WEIGHTS)
DIAGNOSE = ("diagnose", "artifact", *VALIDATE[4:])
LOADED = "LOADED"

# Each request in the folder that ``made`` makes, and what the answer says.
MISTAKES: list[tuple[tuple[str, ...], str]] = [
    (("exprot",), "Did you mean 'export"),
    ((), "Missing command"),
    (("export", "--weigths", "w"), "No such option: --weigths; remedy: did you mean '--weights'?"),
    (("export", "--target", "onnx"), "Missing option '--config-file'"),
    (("export", "--config-file", "no.yaml", *ONNX[3:]), "there is no file no.yaml, and the model zoo has no"),
    (
        ("export", "--config-file", "COCO-Detection/faster_rcnn_R_50_FPN_3.yaml", *ONNX[3:]),
        "did you mean 'COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml'?",
    ),
    (("export", "--config-file", "broken.yaml", *ONNX[3:]), "cannot read the model configuration"),
    (("export", "--config-file", "n" * 5000, *ONNX[3:]), "there is no file nnn"),
    ((*ONNX, "--weights", "no.pth"), "no checkpoint at no.pth; got: no such file"),
    ((*ONNX, "--weights", "folder"), "no checkpoint at folder; got: a folder"),
    ((*ONNX, "--weights", ""), "there are no weights"),
    ((*ONNX, "--weights", "detecton2://a.pkl"), "remedy: did you mean 'detectron2://'?"),
    ((*EXPORT, "--target", "onxx"), "remedy: did you mean 'onnx'?"),
    ((*ONNX, "--class-names", "one,two"), "2 names: one, two; expected: 5 things"),
    ((*ONNX, "--class-names", ",".join(map(str, range(1203)))), "1203 names: 0, 1, 2, 3, 4 and 1198 more"),
    ((*ONNX, "--class-names", "one,,two"), "a class has no name; got: --class-names one,,two"),
    ((*ONNX, "--class-names", ","), "a class has no name"),
    ((*ONNX, "--device", "cdua"), "unknown device; got: 'cdua'; .*did you mean 'cuda'?"),
    ((*ONNX, "--device", "cuda:-1"), "unknown device"),
    (
        (*EXPORT, "--target", "aot_inductor", "--device", "cuda:1"),
        "--device cuda:1; expected: one of cpu, cuda",
    ),
    ((*EXPORT, "--target", "aot_inductor", "--opt", "device=cuda"), "two options name the device"),
    ((*ONNX, "--opt", "opset=18"), "did you mean 'opset_version'?"),
    ((*ONNX, "--opt", "opset_version"), "an option has no value"),
    ((*ONNX, "--opt", "opset_version=new"), "the option opset_version has another type"),
    ((*ONNX, "--opt", f"opset_version={'9' * 5000}"), "the option opset_version has another type"),
    ((*ONNX, "--opt", "exporter=dynamoo"), "did you mean 'dynamo'?"),
    ((*ONNX, "--opt", "opset_version=17"), "got: 17; expected: 18 to "),
    (
        (*ONNX, "--opt", "opset_version=22"),
        "got: 22; expected: 18 to 21, which the installed ONNX Runtime runs",
    ),
    (
        (*ONNX, "--opt", "exporter=torchscript", "--opt", "opset_version=21"),
        "18 to 20, which the torchscript",
    ),
    (
        ("export", "--config-file", RETINANET, *ONNX[3:], "--opt", "opset_version=99"),
        "got: 99; expected: 18 to ",
    ),
    ((*EXPORT, "--target", "openvino", "--opt", "opset_version=99"), "which the dynamo exporter writes"),
    ((*EXPORT, "--target", "onnx_int8", "--opt", "samples=0"), "the option samples is out of range"),
    ((*EXPORT, "--target", "onnx_int8", "--no-check"), "needs calibration images"),
    (
        (*EXPORT, "--target", "openvino_bf16"),
        "is checked by its task metrics on annotated images; got: no --data",
    ),
    ((*ONNX, "--run-eval"), "--run-eval needs data"),
    ((*ONNX, "--sample", "no.png"), "there is no such image; got: 'no.png'"),
    ((*ONNX, "--calibration", "no/*.png"), "there is no such image; got: 'no/*.png'"),
    ((*ONNX, "--data", "no"), "no is not a data set; got: no such folder"),
    ((*ONNX, "--data", "folder"), "got: no folder annotations and no folder images"),
    ((*ONNX, "--output", "file"), "file exists and is not an artifact"),
    ((*ONNX, "--output", "folder"), "folder exists and is not an artifact; got: a folder with file"),
    ((*ONNX, "--output", "file/below"), "cannot write file/below; got: .*/file is a file"),
    ((*ONNX, "--output", "o" * 300), "File name too long"),
    ((*ONNX, "MODEL.ROI_HEADZ.NMS_THRESH_TEST", "1"), "MODEL.ROI_HEADS"),
    ((*ONNX, "MODEL.MASK_ON"), "come in pairs of a key and a value"),
    (("predict", "no", IMAGE), "no is not an artifact; got: no such folder"),
    (("predict", "folder", IMAGE), f"got: a folder without {MANIFEST}"),
    (("predict", "file", IMAGE), "file is not an artifact; got: a file"),
    (("predict", "artifact", "no.png"), "there is no such image"),
    (("predict", "artifact", IMAGE, "--device", "gpu"), "unknown device; got: 'gpu'"),
    (("predict", "artifact", IMAGE, "--target", "onxx"), "did you mean 'onnx'?"),
    (("predict", "artifact", IMAGE, "--draw", "file"), "cannot write file; got: file is a file"),
    (("predict", "artifact", IMAGE, "--score-threshold", "1.5"), "--score-threshold"),
    (("predict", "artifact", IMAGE, "--score-threshold", "much"), "--score-threshold"),
    (("inspect", "no"), "no is not an artifact"),
    (("inspect", "artifact", "--dump", "file"), "cannot write file"),
    (("validate", "no"), "no is not an artifact"),
    (("validate", "artifact", "--images", "0"), "--images"),
    (("validate", "artifact", "--accuracy-images", "-1"), "--accuracy-images"),
    (("validate", "artifact", "--against", "no"), "no is not an artifact"),
    (("validate", "artifact"), "nothing to compare the artifact with; got: no model, no other artifact"),
    (
        ("validate", "artifact", "--against", "artifact"),
        "nothing to compare the artifact with; got: no --data",
    ),
    (("validate", "artifact", "--against", "artifact", "--config-file", CONFIG), "not with both"),
    (("validate", "artifact", "--against-target", "onnx"), "--against-target needs another artifact"),
    (("validate", "artifact", "--target", "onxx"), "did you mean 'onnx'?"),
    (("validate", "artifact", "--device", "cdua"), "unknown device"),
    ((*VALIDATE, "--data", "no"), "no is not a data set"),
    ((*VALIDATE, "--save-dir", "file"), "cannot write file"),
    ((*VALIDATE, "--config-file", "no.yaml"), "there is no file no.yaml"),
    ((*VALIDATE, "--params", "no.yaml"), "no.yaml cannot be read"),
    ((*VALIDATE, "--params", "broken.yaml"), "broken.yaml"),
    ((*VALIDATE, "--weights", "no.pth"), "no checkpoint at no.pth"),
    (("diagnose", "no"), "no is not an artifact"),
    (("diagnose", "artifact"), "no --config-file is given; got: no file"),
    (("diagnose", "artifact", "--config-file", CONFIG), "no --weights is given; got: no file"),
    ((*DIAGNOSE, "--image", "no.png"), "there is no such image"),
    ((*DIAGNOSE, "--target", "onxx"), "did you mean 'onnx'?"),
    ((*DIAGNOSE, "--config-file", "no.yaml"), "there is no file no.yaml"),
    ((*DIAGNOSE, "--weights", "no.pth"), "no checkpoint at no.pth"),
    ((*DIAGNOSE, "--save-dir", "file"), "cannot write file"),
]

SCRIPT = f"""
import contextlib, io, json, sys
from detexport.cli import run_command
answers = []
for arguments in json.load(sys.stdin):
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = run_command(arguments)
    heavy = [name for name in ("torch", "torchvision", "openvino", "mlflow") if name in sys.modules]
    answers.append([code, said.getvalue(), heavy])
print("{LOADED}" + json.dumps(answers))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with things that are not what is asked for."""
    folder = tmp_path_factory.mktemp("requests")
    (folder / "file").touch()
    (folder / "folder").mkdir()
    (folder / "folder/file").touch()
    for name in ("artifact", "data/images", "data/annotations"):
        (folder / name).mkdir(parents=True)
    (folder / "artifact" / MANIFEST).write_text("{}")
    (folder / "broken.yaml").write_text("MODEL: [")
    return folder


@pytest.fixture(scope="module")
def answers(made: Path) -> list[tuple[int, str, list[str]]]:
    """Exit code, standard error and heavy modules after each of ``MISTAKES``, all in one process."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=made,
        input=json.dumps([arguments for arguments, _ in MISTAKES]),
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "0"},
    )
    found: list[tuple[int, str, list[str]]] = json.loads(done.stdout.partition(LOADED)[2])
    return found


@pytest.mark.parametrize(
    "index", range(len(MISTAKES)), ids=lambda index: " ".join(MISTAKES[index][0][-2:])[-60:] or "nothing"
)
def test_a_mistake_is_one_line_and_exit_code_2_before_torch_is_imported(
    answers: list[tuple[int, str, list[str]]], index: int
) -> None:
    arguments, message = MISTAKES[index]
    code, said, heavy = answers[index]
    assert heavy == []
    assert code == 2
    if arguments:
        assert said.startswith("error: ")
        assert said.count("\n") == 1
        first, _, rest = message.partition(".*")
        assert first in said
        assert rest in said


# ---- any arguments at all

OPTIONS = {
    "export": "config-file weights target output sample calibration opt class-names data run-eval device "
    "check no-check proof no-proof max-image-pixels allow-new trust-config",
    "predict": "json draw device target score-threshold max-image-pixels output format engine address "
    "workers part-images",
    "validate": "data against config-file weights target against-target images accuracy-images "
    "quality-images device save-dir json allow-new max-image-pixels params trust-config",
    "diagnose": "config-file weights image max-image-pixels target save-dir json allow-new trust-config",
    "inspect": "json dump",
    "doctor": "json",
    "promote": "version json",
    "rollback": "json",
}
COMMANDS = {name: [f"--{option}" for option in options.split()] for name, options in OPTIONS.items()}
FILES = [CONFIG, RETINANET, WEIGHTS, IMAGE, "artifact", "folder", "file", "broken.yaml", "out", "", "."]
WORDS = ["onnx", "onnx_int8", "cpu", "cuda:0", "opset_version=18", "opset_version=99", "a,b", "MODEL.WEIGHTS"]
NUMBERS = ["5", "0.5", "-1", "nan", "1e400", "9" * 5000]
KNOWN = [*FILES, *WORDS, *NUMBERS, "MODEL.ROI_HEADS.NUM_CLASSES", "--", "x" * 5000, "[" * 3000]
# What a process can be given: no NUL, and of the surrogates those that stand for bytes that are no text.
TEXT = st.text(
    st.characters(exclude_characters="\0", exclude_categories=("Cs",))
    | st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF, categories=("Cs",)),
    max_size=40,
)
VALUE = st.sampled_from(KNOWN) | TEXT


@st.composite
def requests(draw: st.DrawFn) -> list[str]:
    """A command with options and values, of which any may be wrong."""
    command = draw(st.sampled_from(sorted(COMMANDS)))
    complete = draw(
        st.sampled_from([list(ONNX[1:])] if command == "export" else [["artifact", IMAGE], ["artifact"]])
    )
    given_options = draw(st.lists(st.tuples(st.sampled_from(COMMANDS[command]) | TEXT, VALUE), max_size=4))
    return [
        command,
        *(complete if draw(st.booleans()) else []),
        *(part for pair in given_options for part in pair),
    ]


@pytest.fixture
def _light_ends(monkeypatch: pytest.MonkeyPatch, made: Path) -> None:
    """In place of what a command does after its request was checked: nothing, with a good end."""
    passed = SimpleNamespace(passed=True, diverges=False)
    for module, names in {
        "export": ["make"],
        "predict": ["predict"],
        "predict_folder": ["predict_to_output"],
        "validate": ["validate"],
        "diagnose": ["diagnose"],
        "inspect": ["inspect"],
        "doctor": ["doctor"],
        "promote": ["promote", "rollback"],
    }.items():
        end: Any = SimpleNamespace(**{name: lambda *_, **__: passed for name in names})
        monkeypatch.setitem(sys.modules, f"detexport.cli.{module}", end)
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    monkeypatch.setenv(LIMIT_VARIABLE, "")  # which an option sets
    monkeypatch.chdir(made)


def test_the_options_that_are_tried_are_those_of_the_commands() -> None:
    import typer

    commands: Any = typer.main.get_command(app)
    for name, options in COMMANDS.items():
        declared = {
            spelling
            for parameter in commands.commands[name].params
            for spelling in (*parameter.opts, *parameter.secondary_opts)
            if spelling.startswith("--")
        }
        assert declared - {"--help"} == set(options)


@pytest.mark.usefixtures("_light_ends")
@fuzzed(150)
@given(requests() | st.lists(VALUE, max_size=5))
def test_no_arguments_end_in_a_trace(arguments: list[str]) -> None:
    capture = pytest.MonkeyPatch()
    said, printed = _Lines(), _Lines()
    with capture.context() as patch:
        patch.setattr(sys, "stderr", said)
        patch.setattr(sys, "stdout", printed)
        code = run_command(arguments)
    text = "".join(said)
    assert code in (0, 2), text
    assert "Traceback" not in text
    if code == 2 and arguments:
        assert text.startswith("error: ")
        assert text.endswith("\n")
        assert len(text) <= len("error: ") + LONGEST_MESSAGE + 1
        assert text[:-1].isprintable()


class _Lines(list[str]):
    """A stream that keeps what is written."""

    def write(self, text: str) -> int:
        self.append(text)
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""
