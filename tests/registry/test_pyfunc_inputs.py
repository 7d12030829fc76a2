"""The images of a request: every form gives the same pixels, and no file is read that is not allowed."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detexport.errors import ConfigError, DetexportError
from detexport.registry.pyfunc_inputs import checked_locations, read_value
from tiny_artifacts import tiny_image

PIXELS = tiny_image(20, 30)
ARRAY = np.ascontiguousarray(PIXELS.transpose(1, 2, 0))


def encoded(kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(ARRAY).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/photo 1.png").write_bytes(encoded())
    (tmp_path / "secret.png").write_bytes(encoded())
    return tmp_path


@pytest.mark.parametrize(
    "value",
    [
        encoded(),
        bytearray(encoded()),
        memoryview(encoded()),
        base64.b64encode(encoded()).decode(),
        base64.b64encode(encoded()),  # as MLflow passes the base64 of `inputs`
        np.bytes_(base64.b64encode(encoded())),
        base64.encodebytes(encoded()),
        b"data:image/png;base64," + base64.b64encode(encoded()),
        ARRAY,
        ARRAY[:, ::-1][:, ::-1],
        ARRAY.tolist(),
        encoded("BMP"),
        encoded("TIFF"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_form_of_an_image_gives_the_same_pixels(value: Any) -> None:
    np.testing.assert_array_equal(read_value(value, "RGB"), PIXELS)
    np.testing.assert_array_equal(read_value(value, "BGR"), PIXELS[::-1])


@pytest.mark.parametrize("kind", ["JPEG", "GIF", "WEBP"])
def test_encoded_files_are_not_taken_for_text(kind: str) -> None:
    plain = read_value(encoded(kind), "RGB")
    np.testing.assert_array_equal(read_value(base64.b64encode(encoded(kind)).decode(), "RGB"), plain)
    assert np.abs(plain.astype(int) - PIXELS).mean() < 40


@pytest.mark.parametrize(
    "value",
    [
        ARRAY.astype(np.float32),
        ARRAY[None],
        PIXELS,
        np.zeros((0, 5, 3), np.uint8),
        [[1, 2], [3]],
        [[[300, 0, 0]]],
        [[[-1, 0, 0]]],
        [],
        None,
        5.0,
        {"image": 1},
        "not base64!",
        "é" * 100,
        b"plain text, no image" * 1000,
        base64.b64encode(b"no image at all"),
        "/9j/" + "A" * 400,
    ],
    ids=lambda value: f"{type(value).__name__} {str(value)[:12]}",
)
def test_anything_else_is_one_short_error_without_its_content(value: Any) -> None:
    with pytest.raises(DetexportError) as raised:
        read_value(value, "RGB", ["/nowhere"])
    assert len(str(raised.value)) <= 500
    assert "A" * 20 not in str(raised.value)
    assert "plain text" not in str(raised.value)


def test_a_file_is_read_only_below_an_allowed_folder(folder: Path) -> None:
    allowed = checked_locations([str(folder / "images")])
    for location in (f"{folder}/images/photo 1.png", f"file://{folder}/images/photo%201.png"):
        np.testing.assert_array_equal(read_value(location, "RGB", allowed), PIXELS)
        np.testing.assert_array_equal(read_value(location.encode(), "RGB", allowed), PIXELS)
        with pytest.raises(DetexportError, match="the model reads no paths and no URIs"):
            read_value(location, "RGB")


@pytest.mark.parametrize(
    "location",
    [
        "{folder}/secret.png",
        "{folder}/images/../secret.png",
        "file://{folder}/images/%2e%2e/secret.png",
        "file://{folder}/images/../secret.png",
        "file://host{folder}/images/photo 1.png",
        "{folder}/images/link.png",
        "{folder}/images2/x.png",
        "http://127.0.0.1:1/images/x.png",
        "https://127.0.0.1:1/x.png",
        "s3://bucket/x.png",
        "runs:/1/x.png",
    ],
)
def test_no_other_location_is_read(folder: Path, location: str) -> None:
    (folder / "images/link.png").symlink_to(folder / "secret.png")
    (folder / "images2").mkdir()
    (folder / "images2/x.png").write_bytes(encoded())
    with pytest.raises(DetexportError, match="the model may not read this location"):
        read_value(location.format(folder=folder), "RGB", checked_locations([str(folder / "images")]))


@pytest.mark.parametrize(
    ("location", "allowed"),
    [
        ("mlflow-artifacts:/1/images/../secret.png", "mlflow-artifacts:/1/images"),
        ("mlflow-artifacts:/1/images/%2e%2e/secret.png", "mlflow-artifacts:/1/images"),
        ("mlflow-artifacts:/1/images/%252e%252e/secret.png", "mlflow-artifacts:/1/images"),
        ("mlflow-artifacts:/1/images2/x.png", "mlflow-artifacts:/1/images"),
        ("mlflow-artifacts:/1/images", "mlflow-artifacts:/1/images"),
        ("mlflow-artifacts:/1/images/x.png?y", "mlflow-artifacts:/1/images/"),
        ("s3://bucket2/x.png", "s3://bucket"),
    ],
)
def test_a_uri_does_not_leave_the_allowed_one(location: str, allowed: str) -> None:
    with pytest.raises(DetexportError, match="the model may not read this location"):
        read_value(location, "RGB", checked_locations([allowed]))


def test_an_artifact_of_the_store_is_read_where_its_run_is_allowed(folder: Path) -> None:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.create_experiment("images", artifact_location=(folder / "store").as_uri())
    run = client.create_run(experiment).info.run_id
    client.log_artifact(run, str(folder / "images/photo 1.png"), "given")
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    allowed = checked_locations([f"runs:/{run}/given"])
    np.testing.assert_array_equal(read_value(f"runs:/{run}/given/photo 1.png", "RGB", allowed), PIXELS)
    with pytest.raises(DetexportError, match=r"cannot be read|not a file"):
        read_value(f"runs:/{run}/given/none.png", "RGB", allowed)


@pytest.mark.parametrize(
    "allowed", ["/data", None, ["data"], [5], ["http://host/images"], ["https://host"], [""]], ids=str
)
def test_what_may_be_allowed_is_checked(allowed: Any) -> None:
    with pytest.raises(ConfigError, match="allowed_uris cannot be used"):
        checked_locations(allowed)
