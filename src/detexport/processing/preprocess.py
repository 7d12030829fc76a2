"""Pre-processing before the graph, in numpy: its inputs by name."""

from collections.abc import Mapping

import numpy as np

from detexport.contract import OUTPUT_SIZE, Contract


def graph_inputs(
    contract: Contract,
    image: np.ndarray | Mapping[str, np.ndarray],
    output_size: tuple[int, int] | None = None,
) -> dict[str, np.ndarray]:
    """Return a graph's inputs for one image, by the contract's names and in its order.

    Args:
        contract: the graph's contract.
        image: (3, H, W) uint8; or all inputs by name, for a graph whose input is not an image.
        output_size: height and width in px of the output, by default those of the image; a raw graph does
            not have this input.
    """
    if isinstance(image, Mapping):
        return {spec.name: image[spec.name] for spec in contract.inputs}
    given = {contract.inputs[0].name: image}
    if contract.graph_end == "pasted":
        given[OUTPUT_SIZE.name] = np.array(output_size or image.shape[1:], OUTPUT_SIZE.dtype)
    return given
