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
    Format.EXPORTED_PROGRAM: ("detexport.runtime.exported_program", "ExportedProgram"),
    Format.OPENVINO: ("detexport.runtime.openvino", "OpenVino"),
}
BOXES = ("pred_boxes", "proposal_boxes")


@dataclass(frozen=True)
class Runtime:
    """A session behind the eager model's interface.

    Args:
        session: what runs the graph.
    """

    session: Session

    def __call__(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Run the model on images, one after another.

        Args:
            inputs: per image ``image``, a uint8 tensor (3, H, W) in the contract's channel order, already
                resized, and, where the result is wanted in another size, ``height`` and ``width`` in px.

        Returns:
            A dict an image, in the size asked for, with what the contract's ``results`` name: ``instances``
            (``pred_boxes``, ``scores``, ``pred_classes`` and, where the model has them, ``pred_masks``
            (R, height, width) bool and ``pred_keypoints`` (R, K, 3)), ``proposals`` (``proposal_boxes``,
            ``objectness_logits``), ``sem_seg`` (C, height, width) logits, and ``panoptic_seg``, a pair of
            ids (height, width) int32 and ``segments_info``.
        """
        return [self._run(**item) for item in inputs]

    def _run(self, image: Any, height: int = 0, width: int = 0, **_other: Any) -> dict[str, Any]:
        pixels = image.cpu().numpy()
        image_size = pixels.shape[-2:]
        output_size = (height or image_size[0], width or image_size[1])
        contract = self.session.artifact.contract
        fields = postprocess(self.session(pixels), image_size, output_size, contract)
        return to_eager(fields, output_size)


def to_eager(fields: dict[str, Any], output_size: tuple[int, int]) -> dict[str, Any]:
    """Post-processed arrays of one image as the eager model's structures of tensors.

    Args:
        fields: what ``detexport.postprocess`` gives.
        output_size: height and width in px.
    """
    import torch

    from detexport.structures import Boxes, Instances

    values = {
        name: Boxes(torch.from_numpy(value)) if name in BOXES else torch.from_numpy(value)
        for name, value in fields.items()
        if name != "segments_info"
    }
    result: dict[str, Any] = {}
    if "panoptic_seg" in values:
        result["panoptic_seg"] = (values.pop("panoptic_seg"), fields["segments_info"])
    if "sem_seg" in values:
        result["sem_seg"] = values.pop("sem_seg")
    if values:
        rows = "proposals" if "proposal_boxes" in values else "instances"
        result[rows] = Instances(output_size, **values)
    return result


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
