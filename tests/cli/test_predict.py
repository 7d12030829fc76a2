"""`detexport predict`: the same outputs as the artifact in Python, as a table, as JSON, as drawings."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from detexport.cli.predict import predict
from detexport.errors import ConfigError, DataError, OutputError
from detexport.runtime import load
from small_disk import small_disk
from tiny_artifacts import KINDS, tiny_image, write_tiny_onnx

OPTIONS: dict[str, Any] = {
    "as_json": False,
    "draw_to": None,
    "device": "cpu",
    "target": "",
    "score_threshold": 0.0,
}


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "images" / "picture.png"
    path.parent.mkdir()
    Image.fromarray(tiny_image(60, 90).transpose(1, 2, 0)).save(path)
    return path


def found(capsys: pytest.CaptureFixture[str], artifact: Path, *names: Path, **options: Any) -> Any:
    predict(artifact, [str(name) for name in names], **{**OPTIONS, "as_json": True, **options})
    return json.loads(capsys.readouterr().out)


def test_json_says_what_the_runtime_gives(
    tiny_onnx: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    document = found(capsys, tiny_onnx, picture)
    (row,) = document["images"]
    # 60 x 90 is resized by the artifact's rule to 40 x 60, and comes back.
    from detexport.data.resize import resize_image

    image = torch.from_numpy(resize_image(tiny_image(60, 90), (40, 60)))
    (expected,) = load(tiny_onnx)([{"image": image, "height": 60, "width": 90}])
    instances = expected["instances"]
    np.testing.assert_array_equal(row["boxes"], instances.pred_boxes.tensor.numpy())
    np.testing.assert_array_equal(np.float32(row["scores"]), instances.scores.numpy())
    assert row["class_names"] == [("circle", "square", "star")[index] for index in row["classes"]]
    masks = [coco_mask.decode(rle) for rle in row["masks"]]
    np.testing.assert_array_equal(np.array(masks, bool), instances.pred_masks.numpy())
    assert (row["image"], row["height"], row["width"]) == (str(picture), 60, 90)
    assert len(row["scores"]) == 3


@pytest.mark.parametrize("fixture", ["tiny_scripting", "tiny_tracing"])
def test_every_format_says_the_same(
    fixture: str,
    tiny_onnx: Path,
    picture: Path,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    expected = found(capsys, tiny_onnx, picture)["images"][0]
    row = found(capsys, request.getfixturevalue(fixture), picture)["images"][0]
    np.testing.assert_allclose(row["scores"], expected["scores"], atol=1e-5)
    np.testing.assert_allclose(row["boxes"], expected["boxes"], atol=1e-3)


def test_the_threshold_leaves_out_what_is_not_above_it(
    tiny_onnx: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = found(capsys, tiny_onnx, picture)["images"][0]["scores"]
    document = found(capsys, tiny_onnx, picture, score_threshold=scores[1])
    assert document["score_threshold"] == scores[1]
    assert document["images"][0]["scores"] == scores[:1]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_has_a_table_json_and_a_picture(
    kind: str, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tiny_onnx(tmp_path / "artifact", kind)
    predict(tmp_path / "artifact", [str(picture)], **{**OPTIONS, "draw_to": tmp_path / "drawn"})
    table = capsys.readouterr().out
    assert f"{picture}  90 x 60 px" in table
    assert len(table.splitlines()) > 1
    drawn = Image.open(tmp_path / "drawn/picture.png")
    assert drawn.size == (90, 60)
    assert np.asarray(drawn).tolist() != np.asarray(Image.open(picture)).tolist()
    (row,) = found(capsys, tmp_path / "artifact", picture)["images"]
    assert len(row) > 3


def test_an_artifact_of_onnx_runs_without_torch(tiny_onnx: Path, picture: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['detexport', *sys.argv[1:]]; sys.modules['torch'] = None\n"
        "from detexport.cli import main\n"
        "main()"
    )
    arguments = ["predict", tiny_onnx, picture, "--draw", tmp_path / "drawn"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "2 detections" in done.stdout
    assert (tmp_path / "drawn/picture.png").is_file()


def test_an_image_that_cannot_be_read_is_named_and_nothing_is_half_said(
    tiny_onnx: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = picture.with_name("broken.png")
    broken.write_bytes(picture.read_bytes()[:100])
    with pytest.raises(DataError, match=r"broken\.png cannot be read as an image"):
        found(capsys, tiny_onnx, picture, broken)
    assert capsys.readouterr().out == ""


def test_an_image_that_is_larger_than_the_memory_is_told(tiny_onnx: Path, tmp_path: Path) -> None:
    import resource

    big = tmp_path / "big.png"
    Image.new("1", (12000, 12000)).save(big)
    limit = 1_100_000 * 1024
    done = subprocess.run(
        [sys.executable, "-m", "detexport.cli", "predict", str(tiny_onnx), str(big)],
        env={
            **os.environ,
            "DETEXPORT_MAX_IMAGE_PIXELS": "200000000",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        },
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    *_, told = done.stderr.splitlines()
    assert told.startswith("error: there is not enough memory for this; got: image 3 x 12000 x 12000, ")
    assert "Traceback" not in done.stderr


def test_drawings_never_replace_other_files(tiny_onnx: Path, picture: Path) -> None:
    before = picture.read_bytes()
    with pytest.raises(ConfigError, match="would replace another file"):
        predict(tiny_onnx, [str(picture)], **{**OPTIONS, "draw_to": picture.parent})
    other = picture.parent / "deeper" / picture.name
    other.parent.mkdir()
    other.write_bytes(before)
    with pytest.raises(ConfigError, match="would replace another file"):
        predict(tiny_onnx, [str(picture), str(other)], **{**OPTIONS, "draw_to": picture.parent / "drawn"})
    assert picture.read_bytes() == before


def test_a_picture_that_has_no_room_is_told_and_not_left_half_written(
    tiny_onnx: Path, picture: Path, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", "8k") as disk:
        with pytest.raises(OutputError, match=r"cannot write .*picture\.png; got: No space left on device"):
            predict(tiny_onnx, [str(picture)], **{**OPTIONS, "draw_to": disk})
        assert list(disk.iterdir()) == []
