"""Runtimes: an artifact becomes a callable with the eager model's interface.

``load`` gives that interface and needs torch. Without torch, a runtime's ``open`` gives a ``Session`` (numpy
in, numpy out) and ``detexport.processing.postprocess`` what lies beyond the graph's end.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy as np

from detexport.artifact import Format, read_artifact
from detexport.errors import memory_guard
from detexport.processing.postprocess import postprocess
from detexport.runtime.session import BatchSession, Engine, Session
from detexport.system.extras import extra_imports

__all__ = ["BatchSession", "Engine", "Runtime", "Session", "load"]

# By name: each runtime is imported only where it is used.
DEFAULT_ENGINES = {
    Format.TORCHSCRIPT: ("detexport.runtime.torchscript", "TorchScript"),
    Format.ONNX: ("detexport.runtime.onnxruntime", "OnnxRuntime"),
    Format.EXPORTED_PROGRAM: ("detexport.runtime.exported_program", "ExportedProgram"),
    Format.AOT_INDUCTOR: ("detexport.runtime.aot_inductor", "AotInductorRuntime"),
    Format.OPENVINO: ("detexport.runtime.openvino", "OpenVinoRuntime"),
}


@dataclass(frozen=True)
class Runtime:
    """A session behind the eager model's interface.

    Args:
        session: what runs the graph.
    """

    session: Session

    def __call__(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Run the model on images.

        An artifact whose ``batch`` is ``"any"`` takes them all in one call of its graph, padded to one size
        as an eager batch is; one of batch ``"1"`` takes one after another, each as an eager batch of its own.

        Args:
            inputs: per image ``image``, a tensor (3, H, W) in the contract's channel order, already resized,
                whole numbers 0..255 of any dtype, and, where the result is wanted in another size, ``height``
                and ``width`` in px. What else a mapped record of a data set has is not looked at.

        Returns:
            A dict an image, in the size asked for and on the CPU, with what the contract's ``results`` name:
            ``instances`` (``pred_boxes``, ``scores``, ``pred_classes`` and, where the model has them,
            ``pred_masks`` (R, height, width) bool and ``pred_keypoints`` (R, K, 3)), ``proposals``
            (``proposal_boxes``, ``objectness_logits``), ``sem_seg`` (C, height, width) logits, and
            ``panoptic_seg``, a pair of ids (height, width) int32 and ``segments_info``.

        Raises:
            InputError: an input is not what is described above.
            ArtifactError: an image has a size that the graph was not exported for.
            OutOfMemoryError: the memory does not suffice; the runtime stays as it is.
            MissingPackageError: torch, whose tensors these are, is not installed.
        """
        with extra_imports():
            from detexport.runtime.eager import checked_examples, to_eager

        artifact = self.session.artifact
        with memory_guard():
            examples = checked_examples(inputs, artifact.contract)
        # In as many calls of the graph as it needs.
        calls = [examples] if artifact.batch == "any" else [[example] for example in examples]
        return [
            to_eager(fields, output_size)
            for call in calls
            for fields, (_, output_size) in zip(self._run(call), call, strict=True)
        ]

    def _run(self, call: list[tuple[np.ndarray, tuple[int, int]]]) -> Iterator[dict[str, Any]]:
        """Post-processed arrays of each image of one call."""
        images, output_sizes = zip(*call, strict=True)
        contract = self.session.artifact.contract
        with memory_guard(*(image.shape for image in images)):
            if len(images) == 1:
                found = [self.session(*call[0])]
            else:
                found = cast(BatchSession, self.session).run_batch(images, output_sizes)
            for outputs, image, output_size in zip(found, images, output_sizes, strict=True):
                yield postprocess(outputs, image.shape[1:], output_size, contract)


def default_engine(artifact_format: Format) -> Engine:
    """Build the runtime, with its default options, that opens a format.

    Raises:
        MissingPackageError: the runtime is not installed.
    """
    module, name = DEFAULT_ENGINES[artifact_format]
    with extra_imports():
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
        RuntimeUnavailableError: the device is not on this machine.
        MissingPackageError: the runtime is not installed.
    """
    folder = Path(artifact_dir)
    engine = runtime or default_engine(read_artifact(folder).format)
    return Runtime(engine.open(folder, device))
