"""What the C++ programs share, on tiny artifacts: images of every kind, resizing, all outputs, refusals."""

import hashlib
import json
import os
import resource
import shutil
import struct
import subprocess
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, load, numpy_helper, save
from PIL import Image
from programs import BUILD, PROGRAMS, detect, expected, graph_input, run, to_labels, to_outputs

from detexport.artifact import MANIFEST, read_artifact
from detexport.contract import DETECTION_OUTPUTS, IMAGE, OUTPUT_SIZE, ResizeRule, TensorSpec
from detexport.parity.compare import compare
from detexport.runtime import default_engine
from detexport.system.digests import sha256_file
from tiny_artifacts import FRACTIONS, KINDS, tiny_image, write_tiny_onnx
from tolerances import TOLERANCE

pytestmark = pytest.mark.cpp
SOURCE = Path(__file__).parents[2] / "cpp"
NO_RESIZE = ResizeRule(min_size=0, max_size=0)


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "tiny.png"
    # Of two stuffs, so that a graph that labels pixels by their brightest channel finds both.
    pixels = np.concatenate([tiny_image(47, 40), tiny_image(47, 21, (40, 220, 60))], axis=2)
    Image.fromarray(pixels.transpose(1, 2, 0)).save(path)
    return path


@pytest.fixture(scope="module")
def at_own_size(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact whose graph takes images as they are."""
    return changed(tiny_onnx, tmp_path_factory.mktemp("changed") / "onnx", resize=NO_RESIZE)


def changed(folder: Path, copy: Path, **contract: object) -> Path:
    """A copy of an artifact with another contract."""
    shutil.copytree(folder, copy)
    artifact = read_artifact(copy)
    replace(artifact, contract=replace(artifact.contract, **contract)).save(copy)
    return copy


def input_digest(folder: Path, image: Path) -> str:
    pixels = graph_input(image, read_artifact(folder))
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def write_pasted_onnx(source: Path, folder: Path) -> None:
    """Two detections whose boxes and masks are in the frame of ``output_size``, whatever the image."""
    node = helper.make_node
    tensors = {
        "fractions": FRACTIONS[:2],
        "order": np.array([1, 0, 1, 0]),
        "two_scores": np.array([0.9, 0.8], np.float32),
        "two_classes": np.array([1, 0]),
        "first_rows": np.array([5, 40]).reshape(2, 1, 1),
        "zero": np.array(0),
        "one": np.array(1),
        "two": np.array([2]),
        "around": np.array([0, 2]),
    }
    nodes = [
        node("Gather", ["output_size", "order"], ["sides"]),
        node("Cast", ["sides"], ["scale"], to=TensorProto.FLOAT),
        node("Mul", ["fractions", "scale"], ["pred_boxes"]),
        node("Gather", ["output_size", "zero"], ["height"]),
        node("Range", ["zero", "height", "one"], ["y"]),
        node("Unsqueeze", ["y", "around"], ["rows"]),
        node("GreaterOrEqual", ["rows", "first_rows"], ["inside"]),
        node("Concat", ["two", "output_size"], ["shape"], axis=0),
        node("Expand", ["inside", "shape"], ["pred_masks"]),
        node("Identity", ["two_scores"], ["scores"]),
        node("Identity", ["two_classes"], ["pred_classes"]),
    ]
    artifact = read_artifact(source)
    masks = TensorSpec("pred_masks", "bool", ("R", "height", "width"), "pixels of the output")
    contract = replace(artifact.contract, inputs=(IMAGE, OUTPUT_SIZE), outputs=(*DETECTION_OUTPUTS, masks))
    types = {
        "uint8": TensorProto.UINT8,
        "float32": TensorProto.FLOAT,
        "int64": TensorProto.INT64,
        "bool": TensorProto.BOOL,
    }
    edges = [
        [helper.make_tensor_value_info(spec.name, types[spec.dtype], spec.shape) for spec in specs]
        for specs in (contract.inputs, contract.outputs)
    ]
    initializers = [numpy_helper.from_array(value, name) for name, value in tensors.items()]
    graph = helper.make_graph(nodes, "pasted", *edges, initializers)
    folder.mkdir()
    opset = [helper.make_opsetid("", 18)]
    save(helper.make_model(graph, opset_imports=opset, ir_version=9), folder / "model.onnx")
    files = {"model.onnx": sha256_file(folder / "model.onnx")}
    replace(artifact, files=files, contract=contract, graph_end="pasted").save(folder)


def write_png(
    path: Path, rows: bytes, size: tuple[int, int], depth: int, colour: int, **options: int
) -> None:
    """A PNG of a kind that PIL does not write; ROWS are filtered by nothing, each begins with a 0."""
    height, width = size
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, options.get("interlaced", 0))
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


# ---- the image


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1"])
def test_a_png_is_read_as_python_reads_it(
    at_own_size: Path, picture: Path, tmp_path: Path, mode: str
) -> None:
    with Image.open(picture) as image:
        alpha = image.convert("L")
        other = image.convert(mode)
        if mode in ("RGBA", "LA"):
            other.putalpha(alpha)
        other.save(tmp_path / "image.png")
    printed = detect("onnx_runtime", at_own_size, tmp_path / "image.png")
    assert printed["input"] == {
        "height": 47,
        "width": 61,
        "sha256": input_digest(at_own_size, tmp_path / "image.png"),
    }


def test_a_palette_with_a_transparent_colour(at_own_size: Path, picture: Path, tmp_path: Path) -> None:
    with Image.open(picture) as image:
        image.quantize(7).save(tmp_path / "image.png", transparency=3, bits=4)
    printed = detect("onnx_runtime", at_own_size, tmp_path / "image.png")
    assert printed["input"]["sha256"] == input_digest(at_own_size, tmp_path / "image.png")


def test_sixteen_bits_of_colour(at_own_size: Path, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 1 << 16, (5, 7, 3))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    write_png(tmp_path / "image.png", rows, (5, 7), depth=16, colour=2)
    printed = detect("onnx_runtime", at_own_size, tmp_path / "image.png")
    assert printed["input"]["sha256"] == input_digest(at_own_size, tmp_path / "image.png")


def test_an_interlaced_png(at_own_size: Path, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (13, 9, 3)).astype(np.uint8)
    passes = [
        (0, 8, 0, 8),
        (0, 8, 4, 8),
        (4, 8, 0, 4),
        (0, 4, 2, 4),
        (2, 4, 0, 2),
        (0, 2, 1, 2),
        (1, 2, 0, 1),
    ]
    rows = b"".join(
        b"\0" + row.tobytes() for y, dy, x, dx in passes for row in image[y::dy, x::dx] if row.size
    )
    write_png(tmp_path / "image.png", rows, (13, 9), depth=8, colour=2, interlaced=1)
    printed = detect("onnx_runtime", at_own_size, tmp_path / "image.png")
    assert printed["input"]["sha256"] == hashlib.sha256(image.transpose(2, 0, 1).tobytes()).hexdigest()


@pytest.mark.parametrize("order", ["RGB", "BGR"])
@pytest.mark.parametrize(
    "rule",
    [ResizeRule(20, 90), ResizeRule(47, 90), ResizeRule(111, 1000), ResizeRule(200, 210), ResizeRule(1, 3)],
    ids=lambda rule: f"{rule.min_size}-{rule.max_size}",
)
def test_an_image_is_resized_to_the_last_bit_as_python_resizes_it(
    tiny_onnx: Path, picture: Path, tmp_path: Path, rule: ResizeRule, order: str
) -> None:
    folder = changed(tiny_onnx, tmp_path / "onnx", resize=rule, channel_order=order)
    printed = detect("onnx_runtime", folder, picture)
    assert printed["input"]["sha256"] == input_digest(folder, picture)


def test_halves_decide_about_a_pixel_as_in_python(tiny_onnx: Path, tmp_path: Path) -> None:
    folder = changed(tiny_onnx, tmp_path / "onnx", resize=ResizeRule(min_size=50, max_size=75))
    for width in range(20, 61, 3):
        Image.new("RGB", (width, 40)).save(tmp_path / "image.png")
        printed = detect("onnx_runtime", folder, tmp_path / "image.png")["input"]
        wanted = graph_input(tmp_path / "image.png", read_artifact(folder)).shape
        assert (3, printed["height"], printed["width"]) == wanted


@pytest.mark.parametrize("fault", ["cut", "jpeg", "deep", "turned", "absent"])
def test_an_image_that_is_not_an_upright_png_is_refused(
    at_own_size: Path, picture: Path, tmp_path: Path, fault: str
) -> None:
    path = tmp_path / "image.png"
    if fault == "cut":
        path.write_bytes(picture.read_bytes()[:-500])
    elif fault == "deep":
        Image.fromarray(np.zeros((4, 5), np.uint16)).save(path)
    elif fault in ("jpeg", "turned"):
        with Image.open(picture) as image:
            exif = image.getexif()
            exif[0x0112] = 6
            image.save(path, format="jpeg" if fault == "jpeg" else "png", exif=exif)
    done = run("onnx_runtime", at_own_size, path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {path} cannot be read as an image; got: ")


@pytest.mark.parametrize("limit_mb", [600, 1000])
def test_an_image_that_is_larger_than_the_memory_is_told(
    tiny_tracing: Path, tmp_path: Path, limit_mb: int
) -> None:
    """Read into 432 MB, and turned into as much again; then, at its own size, copied."""
    contract = replace(read_artifact(tiny_tracing).contract, resize=NO_RESIZE)
    shutil.copytree(tiny_tracing, tmp_path / "artifact")
    replace(read_artifact(tiny_tracing), contract=contract).save(tmp_path / "artifact")
    Image.new("1", (12000, 12000)).save(tmp_path / "big.png")
    limit = (limit_mb << 20, limit_mb << 20)
    done = run(
        *("torchscript", tmp_path / "artifact", tmp_path / "big.png"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, limit),
    )
    assert (done.returncode, done.stdout) == (1, "")
    told = f"error: there is not enough memory for the image {tmp_path / 'big.png'}; got: 12000 x 12000 px; "
    assert done.stderr.startswith(told)


# ---- the outputs


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_output_in_the_images_own_frame(picture: Path, tmp_path: Path, kind: str) -> None:
    write_tiny_onnx(tmp_path / kind, kind)
    session = default_engine(read_artifact(tmp_path / kind).format).open(tmp_path / kind)
    contract = session.artifact.contract
    printed, wanted = detect("onnx_runtime", tmp_path / kind, picture), expected(session, picture)
    assert printed["input"]["height"] == 40
    if kind in ("semantic", "panoptic"):
        np.testing.assert_array_equal(to_labels(printed, (47, 61)), wanted.pop("sem_seg").argmax(0))
        names = {entry["class"]: entry["class_name"] for entry in printed["sem_seg"]}
        assert all(contract.stuff_class_names[label] == name for label, name in names.items())
    if kind == "semantic":
        return
    actual = to_outputs(printed, (47, 61), contract)
    found = compare(wanted, actual, tolerance=TOLERANCE, contract=contract, scale=61 / 52)
    assert found.passed, found.reasons
    assert found.expected == 3
    if kind == "panoptic":
        assert len(actual["segments_info"]) > 2


def test_a_graph_that_ends_pasted_is_given_the_images_size(
    tiny_onnx: Path, picture: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "pasted"
    write_pasted_onnx(tiny_onnx, folder)
    printed = detect("onnx_runtime", folder, picture)
    assert printed["input"]["height"] == 40
    found = to_outputs(printed, (47, 61), read_artifact(folder).contract)
    np.testing.assert_allclose(found["pred_boxes"], FRACTIONS[:2] * np.array([61, 47, 61, 47], np.float32))
    rows = np.arange(47)[:, None] >= np.array([[[5]], [[40]]])
    np.testing.assert_array_equal(found["pred_masks"], np.broadcast_to(rows, (2, 47, 61)))


@pytest.mark.parametrize("artifact", ["tiny_onnx", "tiny_scripting", "tiny_tracing"])
def test_no_detection(request: pytest.FixtureRequest, tmp_path: Path, artifact: str) -> None:
    folder = request.getfixturevalue(artifact)
    Image.new("RGB", (50, 30)).save(tmp_path / "black.png")
    printed = detect(PROGRAMS[read_artifact(folder).format], folder, tmp_path / "black.png")
    assert [printed[name] for name in ("boxes", "scores", "classes", "class_names", "masks")] == [[]] * 5


@pytest.mark.parametrize("artifact", ["tiny_scripting", "tiny_tracing"])
def test_torchscript_of_both_kinds(request: pytest.FixtureRequest, picture: Path, artifact: str) -> None:
    folder = request.getfixturevalue(artifact)
    session = default_engine(read_artifact(folder).format).open(folder)
    contract = session.artifact.contract
    actual = to_outputs(detect("torchscript", folder, picture), (47, 61), contract)
    wanted = expected(session, picture)
    found = compare(wanted, actual, tolerance=TOLERANCE, contract=contract, scale=61 / 52)
    assert found.passed, found.reasons
    assert found.expected == 3


def test_calls_are_timed(tiny_onnx: Path, picture: Path) -> None:
    latency = detect("onnx_runtime", tiny_onnx, picture, "--repeat", 5, "--threads", 1)["latency"]
    assert latency["runs"] == 5
    assert 0 < latency["p50_ms"] <= latency["p90_ms"]
    assert list(detect("onnx_runtime", tiny_onnx, picture, "--repeat", 0)["latency"]) == ["runs", "load_s"]


# ---- refusals


def test_a_changed_file_is_refused_before_it_is_loaded(
    tiny_onnx: Path, picture: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_onnx, tmp_path / "onnx")
    with (tmp_path / "onnx/model.onnx").open("ab") as file:
        file.write(b"\0")
    done = run("onnx_runtime", tmp_path / "onnx", picture)
    assert done.returncode == 1
    assert "model.onnx is not the file that was exported; got: " in done.stderr
    (tmp_path / "onnx/model.onnx").unlink()
    assert "got: no such file; expected: sha256" in run("onnx_runtime", tmp_path / "onnx", picture).stderr


@pytest.mark.parametrize(
    ("path", "kind", "named"),
    [
        ("evil.so", "file", "evil.so"),
        ("deep/er/file", "file", "deep/"),
        ("a\nb", "file", r"a\nb"),
        ("pipe", "pipe", "pipe"),
        ("link", "link", "link, a symbolic link"),
    ],
)
def test_a_folder_holds_nothing_but_the_listed_files(
    tiny_onnx: Path, picture: Path, tmp_path: Path, path: str, kind: str, named: str
) -> None:
    folder = Path(shutil.copytree(tiny_onnx, tmp_path / "onnx"))
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    make = {"file": Path.touch, "pipe": os.mkfifo, "link": lambda link: link.symlink_to(picture)}
    make[kind](folder / path)
    done = run("onnx_runtime", folder, picture)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"holds files that its manifest does not list; got: {named}; expected: only " in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_many_unlisted_files_are_counted(tiny_onnx: Path, picture: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_onnx, tmp_path / "onnx"))
    for index in range(50):
        (folder / f"{index:02}").touch()
    assert "got: 00, 01, 02 and 47 more; " in run("onnx_runtime", folder, picture).stderr


def test_listed_files_are_in_the_folder_and_no_links(tiny_onnx: Path, picture: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_onnx, tmp_path / "onnx"))
    artifact = read_artifact(folder)
    (folder / "data" / "deep").mkdir(parents=True)
    shutil.copy(picture, folder / "data/deep/file")
    replace(artifact, files={**artifact.files, "data/deep/file": sha256_file(picture)}).save(folder)
    detect("onnx_runtime", folder, picture)
    (folder / "data/deep/file").unlink()
    (folder / "data/deep/file").symlink_to(picture)
    assert "got: data/deep/file, a symbolic link; " in run("onnx_runtime", folder, picture).stderr


@pytest.mark.parametrize(
    "name", ["../out", "{}/out", "a/../b", "./a", "a//b", "a/", "", "a\\b", "a\nb", MANIFEST]
)
def test_no_path_leads_out_of_the_folder(tiny_onnx: Path, picture: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(tiny_onnx, tmp_path / "onnx"))
    name = name.format(tmp_path)
    shutil.copy(folder / "model.onnx", tmp_path / "out")
    artifact = read_artifact(folder)
    files = {**artifact.files, name: sha256_file(tmp_path / "out")}
    for main_file in ("model.onnx", name):
        replace(artifact, files=files, main_file=main_file).save(folder)
        done = run("onnx_runtime", folder, picture)
        assert (done.returncode, done.stdout) == (1, "")
        assert "has an invalid manifest; got: files: " in done.stderr


def test_every_file_that_a_runtime_opens_has_a_digest(
    tiny_onnx: Path, tiny_openvino: Path, picture: Path, tmp_path: Path
) -> None:
    onnx = Path(shutil.copytree(tiny_onnx, tmp_path / "onnx"))
    replace(read_artifact(onnx), files={}).save(onnx)
    assert "files: model.onnx has no digest; ONNX needs it" in run("onnx_runtime", onnx, picture).stderr
    openvino = Path(shutil.copytree(tiny_openvino, tmp_path / "openvino"))
    artifact = read_artifact(openvino)
    replace(artifact, files={"model.xml": artifact.files["model.xml"]}).save(openvino)
    done = run("openvino", openvino, picture)
    assert "files: model.bin has no digest; OpenVINO IR needs it" in done.stderr


@pytest.mark.parametrize("location", ["../weights.bin", "{}/weights.bin", "other.bin"])
def test_weights_beside_an_onnx_model_are_in_its_folder(
    tiny_onnx: Path, picture: Path, tmp_path: Path, location: str
) -> None:
    """The program lists the folder; ONNX Runtime refuses a path that leads out of it."""
    folder = tmp_path / "onnx"
    folder.mkdir()
    model = load(tiny_onnx / "model.onnx")
    save(model, folder / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=64)
    names = ("model.onnx", "weights.bin")
    artifact = read_artifact(tiny_onnx)
    replace(artifact, files={name: sha256_file(folder / name) for name in names}).save(folder)
    detect("onnx_runtime", folder, picture)
    (folder / "weights.bin").rename(tmp_path / "weights.bin")
    model = load(folder / "model.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location.format(tmp_path)
    save(model, folder / "model.onnx")
    replace(artifact, files={"model.onnx": sha256_file(folder / "model.onnx")}).save(folder)
    done = run("onnx_runtime", folder, picture)
    assert (done.returncode, done.stdout) == (1, "")
    assert "external data path" in done.stderr.lower()


def test_another_format_is_refused(tiny_tracing: Path, picture: Path) -> None:
    done = run("onnx_runtime", tiny_tracing, picture)
    assert done.returncode == 1
    assert "got: TorchScript; expected: ONNX;" in done.stderr


def test_a_folder_that_is_not_an_artifact_is_refused(tiny_onnx: Path, picture: Path, tmp_path: Path) -> None:
    assert "is not an artifact" in run("onnx_runtime", tmp_path, picture).stderr
    shutil.copytree(tiny_onnx, tmp_path / "onnx")
    manifest = json.loads((tmp_path / "onnx" / MANIFEST).read_text())
    del manifest["contract"]["resize"]
    (tmp_path / "onnx" / MANIFEST).write_text(json.dumps(manifest))
    assert "'resize' not found" in run("onnx_runtime", tmp_path / "onnx", picture).stderr


def test_outputs_that_are_not_the_contracts_are_refused(
    tiny_onnx: Path, picture: Path, tmp_path: Path
) -> None:
    outputs = read_artifact(tiny_onnx).contract.outputs
    folder = changed(
        tiny_onnx, tmp_path / "onnx", outputs=(*outputs[:2], replace(outputs[2], dtype="int32"), outputs[3])
    )
    done = run("onnx_runtime", folder, picture)
    assert done.returncode == 1
    assert "the graph's outputs do not match its contract" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "two paths are required"),
        (["a", "b", "--repeat", "-1"], "--repeat must be a whole number"),
        (["a", "b", "--threads"], "--threads must be a whole number"),
        (["a", "b", "--fast"], "unknown option"),
        (["a", "b", "--precision", "int8"], "unknown option"),
    ],
)
def test_arguments_that_are_not_understood_are_refused(arguments: list[str], words: str) -> None:
    done = run("onnx_runtime", *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert words in done.stderr


# ---- the build


def configure(build: Path, *definitions: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("cmake") is None:
        pytest.skip("no cmake; `make cpp-test` says what to install")
    command = ["cmake", "-S", str(SOURCE), "-B", str(build), *definitions]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_missing_runtime_is_left_out_and_said(tmp_path: Path) -> None:
    done = configure(tmp_path, "-DSITE_PACKAGES=/nowhere")
    assert done.returncode == 0, done.stderr
    for program in PROGRAMS.values():
        reason = (tmp_path / f"{program}.left_out").read_text()
        assert "; remedy: pip install " in reason
        assert f"{program} is left out: {reason.strip()}" in done.stderr


def test_missing_libraries_are_named_by_their_packages(tmp_path: Path) -> None:
    done = configure(
        tmp_path,
        "-DCMAKE_DISABLE_FIND_PACKAGE_PNG=ON",
        "-DCMAKE_DISABLE_FIND_PACKAGE_nlohmann_json=ON",
    )
    assert done.returncode != 0
    assert "apt-get install libpng-dev nlohmann-json3-dev" in " ".join(done.stderr.split())


def test_every_program_is_built_or_says_why_not() -> None:
    if not BUILD.is_dir():
        pytest.skip("not built; `make cpp-test` builds them")
    for program in PROGRAMS.values():
        assert (BUILD / program).is_file() != (BUILD / f"{program}.left_out").is_file()
