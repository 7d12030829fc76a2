"""What the registered model gives for each kind of model, against the signature that promises it."""

import base64
import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from mlflow.types.schema import Array, DataType, Object
from PIL import Image
from pycocotools import mask as coco_mask

from detexport.contract import Contract
from detexport.data import resize_image, resized_size
from detexport.processing.postprocess import postprocess
from detexport.registry.pyfunc import Detector
from detexport.registry.signature import build_signature
from detexport.runtime.onnxruntime import OnnxRuntime
from detexport.runtime.torchscript import TorchScript
from tiny_artifacts import KINDS, tiny_contract, tiny_image, write_tiny_onnx
from tiny_models import CONTRACTS, raw_outputs, write_tiny_pasted

PYTHON = {DataType.long: int, DataType.double: float, DataType.string: str, DataType.boolean: bool}
IMAGE = tiny_image(60, 80)


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def contract(kind: str) -> Contract:
    return tiny_contract(**KINDS[kind])


@pytest.fixture(scope="module")
def artifact_dir(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(kind) / "artifact"
    write_tiny_onnx(folder, kind)
    return folder


@pytest.fixture(scope="module")
def detector(artifact_dir: Path) -> Detector:
    runtime = {"_target_": "detexport.runtime.onnxruntime.OnnxRuntime", "threads": 1}
    target = artifact_dir.parent / "target.json"
    target.write_text(json.dumps({"runtime": runtime, "code": {}}))
    detector = Detector()
    artifacts = {"artifact": str(artifact_dir), "target": str(target)}
    detector.load_context(SimpleNamespace(artifacts=artifacts, model_config={"device": "cpu"}))
    return detector


def predict(detector: Detector, **params: Any) -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(IMAGE.transpose(1, 2, 0))).save(buffer, "PNG")
    (row,) = detector.predict(None, pd.DataFrame({"image": [buffer.getvalue()]}), params).to_dict("records")
    return dict(row)


@pytest.fixture(scope="module")
def row(detector: Detector) -> dict[str, Any]:
    return predict(detector)


@pytest.fixture(scope="module")
def fields(artifact_dir: Path, contract: Contract) -> dict[str, Any]:
    """What the graph and the post-processing give for the same image."""
    resized = resize_image(IMAGE, resized_size(60, 80, contract.resize))
    outputs = OnnxRuntime(threads=1).open(artifact_dir)(resized)
    return postprocess(outputs, resized.shape[1:], (60, 80), contract)


def check(value: Any, promised: Any) -> None:
    """Hold a value against a type of the signature."""
    if isinstance(promised, Array):
        assert isinstance(value, list)
        for item in value:
            check(item, promised.dtype)
    elif isinstance(promised, Object):
        assert set(value) == {one.name for one in promised.properties}
        for one in promised.properties:
            check(value[one.name], one.dtype)
    else:
        assert type(value) is PYTHON[promised]


def decode(rle: dict[str, Any]) -> np.ndarray:
    return np.asarray(coco_mask.decode(rle), bool)


def test_a_row_is_what_the_signature_promises(row: dict[str, Any], contract: Contract) -> None:
    promised = {column.name: column.type for column in build_signature(contract).outputs}
    assert set(row) == set(promised)
    for name, value in row.items():
        check(value, promised[name])
    assert json.loads(json.dumps(row)) == row
    assert (row["height"], row["width"]) == (60, 80)


def test_a_call_has_the_parameters_that_the_outputs_allow(contract: Contract) -> None:
    names = [param.name for param in build_signature(contract).params]
    expected = {"score_threshold": "scores", "masks": "pred_masks"}
    assert names == [name for name, output in expected.items() if output in contract.output_names]


def test_without_masks_everything_else_is_the_same(detector: Detector, row: dict[str, Any]) -> None:
    got = predict(detector, masks=False)
    assert got == {name: value for name, value in row.items() if name != "masks"}


def test_a_row_is_what_postprocessing_gives(
    row: dict[str, Any], fields: dict[str, Any], contract: Contract
) -> None:
    columns = {"pred_boxes": "boxes", "scores": "scores", "pred_keypoints": "keypoints"}
    columns |= {name: name for name in ("proposal_boxes", "objectness_logits")}
    for name in set(columns) & set(fields):
        np.testing.assert_array_equal(np.array(row[columns[name]], np.float32), fields[name])
        assert len(fields[name]) == 3
    if "sem_seg" in fields:
        labels = fields["sem_seg"].argmax(0)
        assert [one["class"] for one in row["sem_seg"]] == np.unique(labels).tolist()
        for one in row["sem_seg"]:
            np.testing.assert_array_equal(decode(one["mask"]), labels == one["class"])
            assert one["class_name"] == contract.stuff_class_names[one["class"]]
    if "panoptic_seg" in fields:
        for one, segment in zip(row["panoptic_seg"], fields["segments_info"], strict=True):
            np.testing.assert_array_equal(decode(one["mask"]), fields["panoptic_seg"] == segment["id"])
            assert (one["id"], one["isthing"]) == (segment["id"], segment["isthing"])
            assert one["instance"] == segment.get("instance_id", -1)


def test_a_score_threshold_leaves_out_the_rows_below(
    detector: Detector, fields: dict[str, Any], contract: Contract
) -> None:
    if "instances" not in contract.results:
        return
    row = predict(detector, score_threshold=0.6)
    assert len(fields["scores"]) == 3
    assert row["scores"] == [score for score in fields["scores"].tolist() if score > 0.6]
    others = {"boxes", "classes", "class_names", "masks", "keypoints"} & set(row)
    assert {len(row[name]) for name in others} == {len(row["scores"])}
    things = [one["instance"] for one in row.get("panoptic_seg", ()) if one["isthing"]]
    assert set(things) <= set(range(len(row["scores"])))


def test_a_graph_that_ends_pasted_gives_the_same_rows(tmp_path: Path) -> None:
    contract = CONTRACTS["everything"]
    artifact = write_tiny_pasted(tmp_path / "artifact", contract)
    detector = Detector()
    detector.session = TorchScript().open(tmp_path / "artifact")
    row = predict(detector, score_threshold=0.5)
    height, width = IMAGE.shape[1:]
    resized = resize_image(IMAGE, resized_size(height, width, contract.resize))
    outputs = raw_outputs(contract, resized)
    kept = outputs["scores"] > 0.5
    outputs |= {name: outputs[name][kept] for name in contract.row_names}
    expected = postprocess(outputs, resized.shape[1:], (height, width), contract)
    assert 0 < len(row["scores"]) < 3
    np.testing.assert_allclose(row["boxes"], expected["pred_boxes"], rtol=1e-5)
    masks = [coco_mask.decode({**one, "counts": one["counts"].encode()}) for one in row["masks"]]
    np.testing.assert_array_equal(masks, expected["pred_masks"])
    assert len(row["panoptic_seg"]) == len(expected["segments_info"])
    assert build_signature(artifact.contract) == build_signature(contract)


@pytest.fixture(scope="module")
def instances(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    folder = tmp_path_factory.mktemp("hostile") / "artifact"
    write_tiny_onnx(folder)
    detector = Detector()
    detector.session = OnnxRuntime(threads=1).open(folder)
    return detector


def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(IMAGE.transpose(1, 2, 0))).save(buffer, "PNG")
    return buffer.getvalue()


def test_no_rows_have_the_columns_of_the_signature(detector: Detector, contract: Contract) -> None:
    got = detector.predict(None, pd.DataFrame({"image": []}))
    assert list(got.columns) == build_signature(contract).outputs.input_names()
    assert len(got) == 0


@pytest.mark.parametrize(
    "encode",
    [
        base64.b64encode,
        base64.encodebytes,
        lambda data: b"data:image/png;base64," + base64.b64encode(data),
        lambda data: b"DATA:image/png;base64,\r\n " + base64.encodebytes(data).replace(b"\n", b"\r\n\t"),
    ],
    ids=["base64", "lines", "data", "data and lines"],
)
def test_base64_is_read_as_it_is_written(instances: Detector, encode: Any) -> None:
    column = pd.DataFrame({"image": [png(), encode(png()).decode()]})
    plain, encoded = instances.predict(None, column).to_dict("records")
    assert encoded == plain


@pytest.mark.parametrize("given", [None, 0, 0.0, np.float32(0), {}], ids=str)
def test_no_threshold_is_the_default(instances: Detector, given: Any) -> None:
    params = given if given == {} else {"score_threshold": given}
    column = pd.DataFrame({"image": [png()]})
    assert len(instances.predict(None, column, params)["scores"][0]) == 3


@pytest.mark.parametrize(
    "params",
    [
        *({"score_threshold": value} for value in (float("nan"), -1, 2, "0.5", True, [0.5], 10**400)),
        {"threshold": 0.5, "score_threshold": 0.5},
        {"x" * 10_000: 1},
    ],
    ids=lambda params: str(params)[:30],
)
def test_wrong_parameters_are_one_short_error(instances: Detector, params: dict[str, Any]) -> None:
    with pytest.raises(MlflowException, match="score_threshold") as raised:
        instances.predict(None, pd.DataFrame({"image": [png()]}), params)
    assert len(raised.value.message) <= 500
    assert raised.value.error_code == "INVALID_PARAMETER_VALUE"


@pytest.mark.parametrize("masks", [1, "false", [True], float("nan")], ids=str)
def test_masks_is_true_or_false(instances: Detector, masks: Any) -> None:
    with pytest.raises(MlflowException, match="masks must be true or false, got "):
        instances.predict(None, pd.DataFrame({"image": [png()]}), {"masks": masks})


def refused(detector: Detector, encoded: Any) -> str:
    """The message about a row that is no image."""
    with pytest.raises(MlflowException) as raised:
        detector.predict(None, pd.DataFrame({"image": [encoded]}, dtype=object))
    assert raised.value.error_code == "INVALID_PARAMETER_VALUE"
    assert len(raised.value.message) <= 500
    assert len(raised.value.message.splitlines()) == 1
    return str(raised.value.message)


@pytest.mark.parametrize(
    "encoded",
    [b"", "", None, 5, [1], "x" * 5_000_000, "é", "data:", png()[:40], png()[:-30], b"\x89PNG" * 1000],
    ids=lambda encoded: repr(encoded)[:12],
)
def test_what_is_no_image_is_one_short_error(instances: Detector, encoded: Any) -> None:
    message = refused(instances, encoded)
    assert message.startswith("row 0: ")
    assert "x" * 100 not in message


def test_another_column_is_named(instances: Detector) -> None:
    with pytest.raises(MlflowException, match="there is no column 'image'; got: 'picture'"):
        instances.predict(None, pd.DataFrame({"picture": [png()]}))


def mutated_image(examples: int) -> Any:
    """A test body that gives damaged images to a detector: an answer or one short error."""

    @settings(max_examples=examples, deadline=None)
    @given(position=st.integers(0, 1 << 16), content=st.binary(max_size=8), as_text=st.booleans())
    def check(detector: Detector, position: int, content: bytes, as_text: bool) -> None:
        data = png()
        position %= len(data)
        data = data[:position] + content + data[position + len(content) :]
        encoded = base64.b64encode(data).decode() if as_text else data
        try:
            detector.predict(None, pd.DataFrame({"image": [encoded]}, dtype=object))
        except MlflowException as error:
            message = error.message
            assert len(message) <= 500, message

    return check


def test_damaged_images_are_an_answer_or_an_error(instances: Detector) -> None:
    mutated_image(100)(instances)


@pytest.mark.slow
def test_thousands_of_damaged_images(instances: Detector) -> None:
    mutated_image(3_000)(instances)
