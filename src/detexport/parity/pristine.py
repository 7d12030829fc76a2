"""What the eager model gives on the inputs of a reference, before anything is exported."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import nn
from tqdm import tqdm

from detexport.contract import Contract
from detexport.data.coco import CocoRecord
from detexport.parity.eager import run_eager_batch, with_score_threshold
from detexport.parity.inputs import Plan, Probe, Run, Triple, inputs, probed_threshold
from detexport.parity.outputs import Outputs
from detexport.parity.pictures import Size


def eager_samples(
    net: nn.Module, contract: Contract, records: Sequence[CocoRecord], plan: Plan
) -> Iterator[Triple]:
    """The eager model's outputs on all inputs that a reference holds: see ``detexport.parity.inputs``."""
    with tqdm(total=plan.most_runs(len(records), contract), desc="reference", unit="run") as progress:
        run, probe = _running(net, contract, progress), _probing(net, contract, progress)
        yield from inputs(records, contract, plan, run, probe)


def _running(net: nn.Module, contract: Contract, progress: Any) -> Run:
    def run_images(images: Sequence[np.ndarray], output_sizes: Sequence[Size]) -> list[Outputs]:
        progress.update()
        return run_eager_batch(net, images, output_sizes, contract)

    return run_images


def _probing(net: nn.Module, contract: Contract, progress: Any) -> Probe | None:
    """Scores of a copy of the model with a lower threshold; none where the model gives no scores."""
    if "scores" not in contract.row_names:
        return None
    lowered = with_score_threshold(net, probed_threshold(contract))

    def scores(image: np.ndarray) -> np.ndarray:
        progress.update()
        (outputs,) = run_eager_batch(lowered, [image], [image.shape[1:]], contract)
        found: np.ndarray = outputs["scores"]
        return found

    return scores
