"""Average precision of a model and of its artifact, on the same images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detexport.cli.progress import say
from detexport.contract import ResizeRule
from detexport.data.coco import CocoDataset, load_coco
from detexport.engine.evaluation import evaluate
from detexport.errors import ConfigError, ExportError
from detexport.runtime import Runtime

SPLIT = "val"
AP_BUDGET = {"bf16": 0.005, "int8": 0.02}
"""By how much each AP of an artifact of less precision may lie below the model's."""


@dataclass(frozen=True)
class AsModel:
    """A runtime behind what ``evaluate`` asks of a model."""

    runtime: Runtime

    @property
    def input_format(self) -> str:
        """Order of the image's channels."""
        return self.runtime.session.artifact.contract.channel_order

    @property
    def resize(self) -> ResizeRule:
        """How images are resized before the graph."""
        return self.runtime.session.artifact.contract.resize

    def eval(self) -> "AsModel":
        """An artifact does nothing else than evaluate."""
        return self

    def __call__(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """See ``Runtime``."""
        return self.runtime(inputs)


def load_dataset(folder: Path, class_names: tuple[str, ...], *, keypoints: bool) -> CocoDataset:
    """The validation split, its classes in the model's order where that is given."""
    return load_coco(folder, SPLIT, class_names or None, "keypoints" if keypoints else "instances")


def compare_precision(
    model: Any, runtime: Runtime, dataset: CocoDataset, sigmas: list[float], *, target: str, precision: str
) -> None:
    """Print every average precision of both, and their difference.

    Args:
        model: the eager model.
        runtime: the artifact, loaded.
        dataset: to judge them on.
        sigmas: of keypoints, see ``evaluate``.
        target: the target's name.
        precision: a key of ``AP_BUDGET`` to hold the artifact to its budget; empty to tell only.

    Raises:
        ConfigError: the model gives no instances.
        ExportError: an AP lies further below the model's than the budget allows.
    """
    contract = runtime.session.artifact.contract
    if "instances" not in contract.results:
        raise ConfigError(
            "average precision is of instances",
            got=f"a model of {', '.join(contract.results)}",
            remedy="leave out --run-eval",
        )
    say("average precision of the model and of the artifact ...")
    expected = evaluate(model, dataset, sigmas)
    actual = evaluate(AsModel(runtime), dataset, sigmas)
    say(f"  {'':16} {'model':>8} {target:>14} {'difference':>11}")
    for name, value in expected.items():
        say(f"  {name:16} {value:8.4f} {actual[name]:14.4f} {actual[name] - value:+11.4f}")
    budget = AP_BUDGET.get(precision)
    lost = {name: value - actual[name] for name, value in expected.items() if name.endswith("/AP")}
    if budget is not None and max(lost.values(), default=0.0) > budget:
        raise ExportError(
            f"{target} finds less than the model",
            got=", ".join(f"{name} lower by {less:.4f}" for name, less in lost.items() if less > budget),
            expected=f"at most {budget} lower",
            remedy="calibrate on more images that are like the real ones, choose a target of more precision, "
            "or keep the artifact unproved by --no-proof",
        )
