"""Run the eager model on the inputs of a reference."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch import nn

from detexport.contract import Contract
from detexport.data.coco import CocoRecord
from detexport.outputs import Outputs
from detexport.reference.eager_outputs import run_eager_batch, with_score_threshold
from detexport.reference.image_ops import Size
from detexport.reference.input_kinds import Plan, probed_threshold
from detexport.reference.inputs import Run, SampleOutputs, resumed_inputs
from detexport.reference.resume import Progress
from detexport.reference.threshold_search import Probe


def eager_samples(
    net: nn.Module,
    contract: Contract,
    records: Sequence[CocoRecord],
    plan: Plan,
    progress: Progress | None = None,
) -> Iterator[SampleOutputs]:
    """Yield the eager model's outputs on all inputs of a reference: see ``detexport.reference.inputs``.

    Args:
        net: in evaluation mode; it stays as it is.
        contract: its contract.
        records: images of the data set.
        plan: kinds of inputs and numbers of runs.
        progress: outputs of an interrupted run, which are not repeated.
    """
    run = _running(net, contract)
    yield from resumed_inputs(records, contract, plan, run, _probing(net, contract), progress)


def _running(net: nn.Module, contract: Contract) -> Run:
    def run_images(images: Sequence[np.ndarray], output_sizes: Sequence[Size]) -> list[Outputs]:
        return run_eager_batch(net, images, output_sizes, contract)

    return run_images


def _probing(net: nn.Module, contract: Contract) -> Probe | None:
    """Return a probe: scores of a copy of the model with a lower threshold; None without a threshold."""
    if "scores" not in contract.row_names or contract.score_threshold <= 0:
        return None
    lowered = with_score_threshold(net, probed_threshold(contract))

    def scores(image: np.ndarray) -> np.ndarray:
        (outputs,) = run_eager_batch(lowered, [image], [image.shape[1:]], contract)
        values: np.ndarray = outputs["scores"]
        return values

    return scores
