"""The listed inputs are the coordinates, as the operators' own definitions name them."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino as ov
import pytest
from openvino import opset15

from detexport.formats.coordinate_operators import ONNX, OPENVINO

COORDINATES = {"rois", "batch_indices", "grid"}


@pytest.mark.parametrize("name", ONNX)
def test_the_listed_inputs_of_an_onnx_operator_are_its_coordinates(name: str) -> None:
    inputs = [one.name for one in onnx.defs.get_schema(name, onnx.defs.onnx_opset_version()).inputs]
    assert [index for index, one in enumerate(inputs) if one in COORDINATES] == list(ONNX[name])


def made(name: str) -> Any:
    """Return a node whose inputs are parameters of the inputs' names."""

    def given(name: str, *shape: int, dtype: type = np.float32) -> Any:
        return opset15.parameter(ov.Shape(shape), dtype=dtype, name=name)

    data, grid = given("data", 1, 3, 8, 8), given("grid", 1, 4, 4, 2)
    rois, numbered, indices = (
        given("rois", 2, 4),
        given("rois", 2, 5),
        given("batch_indices", 2, dtype=np.int64),
    )
    nodes = {
        "ROIAlign": lambda: opset15.roi_align(data, rois, indices, 7, 7, 2, 0.25, "avg"),
        "GridSample": lambda: opset15.grid_sample(data, grid, {}),
        "ROIPooling": lambda: opset15.roi_pooling(data, numbered, [7, 7], 0.25, "max"),
    }
    return nodes[name]()


@pytest.mark.parametrize("name", OPENVINO)
def test_the_listed_inputs_of_an_openvino_operator_are_its_coordinates(name: str) -> None:
    node = made(name)
    assert node.get_type_name() == name
    inputs = [value.get_node().get_friendly_name() for value in node.input_values()]
    assert [index for index, one in enumerate(inputs) if one in COORDINATES] == list(OPENVINO[name])


def test_openvino_reads_each_operator_of_onnx_as_a_listed_one(tmp_path: Path) -> None:
    shapes = {"RoiAlign": ([1, 3, 8, 8], [2, 4], [2]), "GridSample": ([1, 3, 8, 8], [1, 4, 4, 2])}
    shapes["MaxRoiPool"] = ([1, 3, 8, 8], [2, 5])
    attributes: dict[str, dict[str, Any]] = {"RoiAlign": {}, "GridSample": {}}
    attributes["MaxRoiPool"] = {"pooled_shape": [7, 7]}
    assert shapes.keys() == ONNX.keys()
    helper, types = onnx.helper, onnx.TensorProto
    for name, sizes in shapes.items():
        names = [f"x{index}" for index in range(len(sizes))]
        kinds = [types.INT64 if len(size) == 1 else types.FLOAT for size in sizes]
        inputs = [
            helper.make_tensor_value_info(*one, size) for *one, size in zip(names, kinds, sizes, strict=True)
        ]
        graph = helper.make_graph(
            [helper.make_node(name, names, ["y"], **attributes[name])],
            "one",
            inputs,
            [helper.make_tensor_value_info("y", types.FLOAT, None)],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.save(model, tmp_path / "one.onnx")
        read = ov.Core().read_model(tmp_path / "one.onnx")
        assert {node.get_type_name() for node in read.get_ops()} & OPENVINO.keys(), name
