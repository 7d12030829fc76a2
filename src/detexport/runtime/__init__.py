"""Runtimes: load an artifact as a callable with the eager model's interface.

``load`` returns that callable and needs torch. Without torch, a runtime's ``open`` returns a ``Session``
(numpy in, numpy out), and ``detexport.processing.postprocess`` post-processes its outputs.
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

# By name, so that a runtime is imported only when it is used.
DEFAULT_ENGINES = {
    Format.TORCHSCRIPT: "detexport.runtime.torchscript.TorchScript",
    Format.ONNX: "detexport.runtime.onnxruntime.OnnxRuntime",
    Format.EXPORTED_PROGRAM: "detexport.runtime.exported_program.ExportedProgram",
    Format.AOT_INDUCTOR: "detexport.runtime.aot_inductor.AotInductorRuntime",
    Format.OPENVINO: "detexport.runtime.openvino.OpenVinoRuntime",
}


@dataclass(frozen=True)
class Runtime:
    """A session behind the eager model's interface.

    Args:
        session: the loaded graph.
    """

    session: Session

    def __call__(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Run the model on images.

        An artifact whose ``batch`` is ``"any"`` runs all images in one call of its graph, padded to one size
        like an eager batch. One whose ``batch`` is ``"1"`` runs each image as an eager batch of one.

        Args:
            inputs: per image ``image``, a tensor (3, H, W) in the contract's channel order, already resized,
                whole numbers 0..255 of any dtype; and, if the output is wanted in another size, ``height``
                and ``width`` in px. Other keys of a mapped data set record are ignored.

        Returns:
            A dict per image, in the requested size and on the CPU, with the contract's ``results``:
            ``instances`` (``pred_boxes``, ``scores``, ``pred_classes`` and, where the model has them,
            ``pred_masks`` (R, height, width) bool and ``pred_keypoints`` (R, K, 3)), ``proposals``
            (``proposal_boxes``, ``objectness_logits``), ``sem_seg`` (C, height, width) logits, and
            ``panoptic_seg``, a pair of ids (height, width) int32 and ``segments_info``.

        Raises:
            InputError: an input does not match the description above.
            ArtifactError: an image has a size that the graph was not exported for.
            OutOfMemoryError: out of memory; the runtime remains usable.
            MissingPackageError: torch is not installed.
        """
        with extra_imports():
            from detexport.runtime.eager import checked_examples, to_eager

        artifact = self.session.artifact
        with memory_guard():
            examples = checked_examples(inputs, artifact.contract)
        # The images of each call of the graph.
        calls = [examples] if artifact.batch == "any" else [[example] for example in examples]
        return [
            to_eager(fields, output_size)
            for call in calls
            for fields, (_, output_size) in zip(self._run(call), call, strict=True)
        ]

    def _run(self, call: list[tuple[np.ndarray, tuple[int, int]]]) -> Iterator[dict[str, Any]]:
        """Yield the post-processed arrays of each image of one call."""
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
    """Build the default runtime of a format, with its default options.

    Raises:
        MissingPackageError: the runtime is not installed.
    """
    module, _, name = DEFAULT_ENGINES[artifact_format].rpartition(".")
    with extra_imports():
        engine: Engine = getattr(import_module(module), name)()
    return engine


def load(artifact_dir: Path | str, device: str = "cpu", runtime: Engine | None = None) -> Runtime:
    """Load an artifact behind the eager model's interface.

    Args:
        artifact_dir: the artifact's folder.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:<index>"``; there is no fallback to another device.
        runtime: the engine and its options; by default that of the artifact's format.

    Raises:
        ArtifactError: the folder is not an artifact, or its files were changed.
        RuntimeUnavailableError: the device is not on this machine.
        MissingPackageError: the runtime is not installed.
    """
    folder = Path(artifact_dir)
    engine = runtime or default_engine(read_artifact(folder).format)
    return Runtime(engine.open(folder, device))
