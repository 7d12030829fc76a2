"""Runtimes: an artifact becomes a callable with the eager model's interface.

``load`` gives that interface and needs torch. Without torch, a runtime's ``open`` gives a ``Session`` (numpy
in, numpy out) and ``detexport.postprocess`` what lies beyond the graph's end.
"""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from detexport.artifact import Format, read_artifact
from detexport.postprocess import postprocess
from detexport.runtime.session import Engine, Session

__all__ = ["Engine", "Runtime", "Session", "load"]

# By name: each runtime is imported only where it is used.
DEFAULT_ENGINES = {
    Format.TORCHSCRIPT: ("detexport.runtime.torchscript", "TorchScript"),
    Format.ONNX: ("detexport.runtime.onnxruntime", "OnnxRuntime"),
}


@dataclass(frozen=True)
class Runtime:
    """A session behind the eager model's interface.

    Args:
        session: what runs the graph.
    """

    session: Session

    def __call__(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Detect objects in images, one after another.

        Args:
            inputs: per image ``image``, a uint8 tensor (3, H, W) in the contract's channel order, already
                resized, and, where the result is wanted in another size, ``height`` and ``width`` in px.

        Returns:
            Per image ``{"instances": Instances}`` in the size asked for: ``pred_boxes``, ``scores``,
            ``pred_classes`` and, where the model has them, ``pred_masks`` (R, height, width) bool.
        """
        return [{"instances": self._detect(**item)} for item in inputs]

    def _detect(self, image: Any, height: int = 0, width: int = 0, **_other: Any) -> Any:
        import torch

        from detexport.structures import Boxes, Instances

        pixels = image.cpu().numpy()
        image_size = pixels.shape[-2:]
        output_size = (height or image_size[0], width or image_size[1])
        outputs = self.session(pixels)
        fields = postprocess(outputs, image_size, output_size, self.session.artifact.contract)
        boxes = Boxes(torch.from_numpy(fields.pop("pred_boxes")))
        others = {name: torch.from_numpy(value) for name, value in fields.items()}
        return Instances(output_size, pred_boxes=boxes, **others)


def default_engine(artifact_format: Format) -> Engine:
    """The runtime, with its default options, that opens a format."""
    module, name = DEFAULT_ENGINES[artifact_format]
    engine: Engine = getattr(import_module(module), name)()
    return engine


def load(artifact_dir: Path | str, device: str = "cpu", runtime: Engine | None = None) -> Runtime:
    """Load an artifact behind the eager model's interface.

    Args:
        artifact_dir: folder that the export wrote.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:<index>"``; never another one in silence.
        runtime: the engine and its options; by default the one that belongs to the artifact's format.

    Raises:
        ArtifactError: the folder is not an artifact, or was changed.
        RuntimeUnavailableError: the runtime or the device is not on this machine.
    """
    folder = Path(artifact_dir)
    engine = runtime or default_engine(read_artifact(folder).format)
    return Runtime(engine.open(folder, device))
