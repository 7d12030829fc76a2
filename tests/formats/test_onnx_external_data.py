"""Other files that an ONNX model refers to are found wherever a tensor can be."""

from pathlib import Path

import onnx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from detexport.formats.onnx_external_data import external_files


def external(location: str) -> TensorProto:
    """A tensor whose values are in another file."""
    tensor = TensorProto(name=location, dims=[1], data_type=TensorProto.FLOAT)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="offset", value="0")
    tensor.external_data.add(key="location", value=location)
    return tensor


def node(**attributes: object) -> onnx.NodeProto:
    return helper.make_node("Any", [], ["y"], **attributes)


def write(path: Path) -> None:
    """A model with external data in every place that can hold a tensor."""
    inner = helper.make_graph([node(value=external("subgraph"))], "inner", [], [], [external("inner")])
    sparse = onnx.SparseTensorProto(values=external("values"), indices=external("indices"))
    graph = helper.make_graph(
        [
            node(value=external("attribute")),
            node(values=[external("list 1"), external("list 2")]),
            node(body=inner),
            node(bodies=[inner]),
            node(sparse=sparse),
        ],
        "outer",
        [],
        [],
        [external("../initializer"), TensorProto(name="own", dims=[1], data_type=1, raw_data=b"\0" * 4)],
    )
    graph.sparse_initializer.append(onnx.SparseTensorProto(values=external("sparse")))
    function = helper.make_function("own", "f", [], ["y"], [node(value=external("function"))], [])
    model = helper.make_model(graph, functions=[function])
    training = model.training_info.add()
    training.algorithm.CopyFrom(helper.make_graph([], "training", [], [], [external("training")]))
    path.write_bytes(model.SerializeToString())


def test_data_is_found_in_every_place(tmp_path: Path) -> None:
    write(tmp_path / "model.onnx")
    assert external_files(tmp_path / "model.onnx") == {
        *("subgraph", "inner", "values", "indices", "attribute", "list 1", "list 2", "../initializer"),
        *("sparse", "function", "training"),
    }


def test_a_model_with_all_its_weights_refers_to_nothing(tiny_onnx: Path) -> None:
    assert external_files(tiny_onnx / "model.onnx") == set()


def test_a_file_as_onnx_writes_it(tiny_onnx: Path, tmp_path: Path) -> None:
    model = onnx.load(tiny_onnx / "model.onnx")
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    assert external_files(tmp_path / "m.onnx") == {"w.bin"}


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 10_000), content=st.binary(max_size=12))
@example(position=0, content=b"\x0b\x0c")  # a group, which ONNX does not have
def test_a_damaged_model_is_a_value_error_or_read(position: int, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    write(path)
    data = path.read_bytes()
    position %= len(data)
    path.write_bytes(data[:position] + content + data[position + len(content) :])
    try:
        external_files(path)
    except ValueError:
        return


@pytest.mark.parametrize("content", [b"", b"graph", b"\x3a\xff", b"\x3a" + b"\xff" * 20])
def test_what_is_no_model_is_a_value_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ValueError, match=r"empty|not a valid ONNX file"):
        external_files(tmp_path / "model.onnx")
