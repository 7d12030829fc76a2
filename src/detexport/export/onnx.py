"""ONNX through ``torch.export``."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxscript
import torch
import torchvision  # noqa: F401 - defines operators that are translated below

from detexport.artifact import Artifact, Format
from detexport.contract import Contract, TensorSpec
from detexport.errors import ExportError
from detexport.export.method import ExportableModel, Provenance, require_eval, write_artifact
from detexport.export.program import nms_keeps_any_number, record_program

MAIN_FILE = "model.onnx"


@dataclass(frozen=True)
class Onnx:
    """``torch.onnx.export`` of the program that ``torch.export`` records; height and width stay free.

    Args:
        opset_version: version of ONNX's operators; 18 or later (RoiAlign with half-pixel centres and
            ReduceMax with axes as an input need it).
    """

    opset_version: int = 20

    def export(
        self,
        model: ExportableModel,
        sample: np.ndarray,
        save_dir: Path,
        *,
        contract: Contract,
        provenance: Provenance,
    ) -> Artifact:
        """See ``ExportMethod.export``."""
        require_eval(model)
        if not 18 <= self.opset_version <= onnx.defs.onnx_opset_version():
            raise ExportError(
                "unsupported opset_version",
                got=self.opset_version,
                expected=f"18 to {onnx.defs.onnx_opset_version()}",
                remedy="set artifacts.onnx.method.opset_version",
            )
        proto = self._convert(model, sample, contract)
        return write_artifact(
            self,
            save_dir,
            name="onnx",
            format=Format.ONNX,
            main_file=MAIN_FILE,
            batch="1",
            packages=("torch", "torchvision", "onnx", "onnxscript"),
            contract=contract,
            provenance=provenance,
            write=lambda path: onnx.save(proto, path),
        )

    def _convert(self, model: ExportableModel, sample: np.ndarray, contract: Contract) -> onnx.ModelProto:
        image = contract.inputs[0]
        recorded = record_program(model, sample, contract)
        # The translation records the program once more, by ONNX's rules of decomposition.
        with torch.no_grad(), _quiet(), nms_keeps_any_number():
            program = torch.onnx.export(
                recorded,
                (),
                dynamo=True,
                input_names=[image.name],
                output_names=list(contract.output_names),
                opset_version=self.opset_version,
                custom_translation_table=TRANSLATIONS,
                verbose=False,
            )
        if program is None:
            raise ExportError(f"{type(model).__name__} gave no ONNX program")
        proto = program.model_proto
        _strip(proto)
        for value, spec in zip(
            (*proto.graph.input, *proto.graph.output), (image, *contract.outputs), strict=True
        ):
            _name_dims(value, spec)
        if [entry.version for entry in proto.opset_import if entry.domain == ""] != [self.opset_version]:
            raise ExportError(
                "the exporter wrote another opset than was asked for",
                got=[(entry.domain, entry.version) for entry in proto.opset_import],
                expected=self.opset_version,
                remedy="choose the opset that it wrote",
            )
        onnx.checker.check_model(proto)
        return proto


def _strip(proto: onnx.ModelProto) -> None:
    """Remove stack traces and other notes of the exporter: they carry the paths of this machine."""
    for message in (proto, proto.graph, *proto.functions):
        message.ClearField("metadata_props")
        message.ClearField("doc_string")
    graphs = [proto.graph]
    while graphs:
        graph = graphs.pop()
        for part in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
            part.ClearField("metadata_props")
            part.ClearField("doc_string")
        for node in graph.node:
            graphs += [attribute.g for attribute in node.attribute if attribute.HasField("g")]


def _name_dims(value: onnx.ValueInfoProto, spec: TensorSpec) -> None:
    """Give the free dimensions the contract's letters instead of the exporter's expressions.

    Raises:
        ExportError: the graph's tensor is not the contract's.
    """
    dims = value.type.tensor_type.shape.dim
    fixed = [dim.dim_value if dim.HasField("dim_value") else None for dim in dims]
    expected = [dim if isinstance(dim, int) else None for dim in spec.shape]
    if value.name != spec.name or fixed != expected:
        raise ExportError(
            "the graph does not keep the contract",
            got=f"{value.name} {fixed}",
            expected=f"{spec.name} {list(spec.shape)}",
            remedy="keep every free dimension free and every fixed one fixed in the model's code",
        )
    for dim, name in zip(dims, spec.shape, strict=True):
        if isinstance(name, str):
            dim.dim_param = name


def _deform_conv2d(
    x: Any,
    weight: Any,
    offset: Any,
    mask: Any,
    bias: Any,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    groups: int,
    offset_groups: int,
    use_mask: bool,
) -> Any:
    return onnxscript.opset19.DeformConv(
        x,
        weight,
        offset,
        bias,
        mask if use_mask else None,
        strides=[stride_h, stride_w],
        pads=[pad_h, pad_w, pad_h, pad_w],
        dilations=[dilation_h, dilation_w],
        group=groups,
        offset_group=offset_groups,
    )


def _roi_pool(x: Any, rois: Any, spatial_scale: float, height: int, width: int) -> tuple[Any, Any]:
    pooled = onnxscript.opset19.MaxRoiPool(x, rois, pooled_shape=[height, width], spatial_scale=spatial_scale)
    # The second output, where each maximum was, is for training alone.
    return pooled, pooled


TRANSLATIONS: dict[Any, Any] = {
    torch.ops.torchvision.deform_conv2d.default: _deform_conv2d,
    torch.ops.torchvision.roi_pool.default: _roi_pool,
}
"""torchvision's operators that the exporter does not know, in ONNX's."""


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's notes on itself from the user's screen; errors still come."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", (FutureWarning, DeprecationWarning))
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
