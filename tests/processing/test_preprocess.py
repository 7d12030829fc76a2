"""Inputs of a graph, by the names of its contract."""

import numpy as np

from detexport.artifact import read_artifact
from detexport.contract import OUTPUT_SIZE
from detexport.processing.preprocess import graph_inputs


def test_an_image_is_the_only_input_of_a_raw_graph(tiny_onnx) -> None:
    contract = read_artifact(tiny_onnx).contract
    image = np.zeros((3, 8, 12), np.uint8)
    inputs = graph_inputs(contract, image)
    assert list(inputs) == [contract.inputs[0].name]
    assert inputs[contract.inputs[0].name] is image


def test_a_graph_with_pasted_masks_receives_the_output_size(tiny_onnx) -> None:
    contract = read_artifact(tiny_onnx).contract.ending("pasted")
    image = np.zeros((3, 8, 12), np.uint8)
    assert graph_inputs(contract, image)[OUTPUT_SIZE.name].tolist() == [8, 12]
    assert graph_inputs(contract, image, (16, 24))[OUTPUT_SIZE.name].tolist() == [16, 24]
