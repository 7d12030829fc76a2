"""ONNX through ``torch.export``, or from a trace."""

import io
import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import onnx
import onnxscript
import torch
import torchvision  # noqa: F401 - defines the operators that are translated below

from detexport.artifact import Format
from detexport.contract import Contract, TensorSpec
from detexport.errors import ConfigError, ExportError, did_you_mean
from detexport.export.export_method import ExportableModel, ExportMethod, SampleInputs, untraceable
from detexport.export.graph_end import example_inputs, image_graph
from detexport.export.onnx_nms import translate_nms
from detexport.export.record_program import record_program
from detexport.formats.onnx_opsets import OLDEST, latest_written
from detexport.formats.pt2 import dynamic_nms_count
from detexport.layers.nms import nms_recorded_whole
from detexport.system.log_levels import only_errors

MAIN_FILE = "model.onnx"
EXPORTERS = ("dynamo", "torchscript")


@dataclass(frozen=True)
class Onnx(ExportMethod):
    """``torch.onnx.export`` with free height and width.

    Args:
        opset_version: ONNX opset; 18 or later (for RoiAlign with half-pixel centres and ReduceMax with axes
            as an input), at most 20 for ``torchscript``.
        exporter: ``"dynamo"`` translates an ``ExportedProgram``, for which ``torch.export`` must support the
            model at every size. ``"torchscript"``, torch's older exporter, translates a trace, for models
            that ``torch.export`` does not support: see ``Tracing`` for the limits of a trace.
        graph_end: ``"raw"`` or ``"pasted"``: see ``Contract.ending``.
    """

    opset_version: int
    exporter: Literal["dynamo", "torchscript"]
    graph_end: Literal["raw", "pasted"]

    name = "onnx"
    format = Format.ONNX
    main_file = MAIN_FILE
    packages = ("torch", "torchvision", "onnx", "onnxscript")

    def check(self) -> None:
        """Check the exporter and that it supports the opset.

        Raises:
            ConfigError: the exporter is unknown or does not support the opset.
        """
        if self.exporter not in EXPORTERS:
            raise ConfigError(
                "unknown exporter",
                got=self.exporter,
                expected=" or ".join(EXPORTERS),
                remedy=did_you_mean(self.exporter, EXPORTERS) or _by_option("exporter=dynamo"),
            )
        latest = latest_written(self.exporter)
        if not OLDEST <= self.opset_version <= latest:
            raise ConfigError(
                f"unsupported opset_version of the {self.exporter} exporter",
                got=self.opset_version,
                expected=f"{OLDEST} to {latest}",
                remedy=_by_option("opset_version=18"),
            )

    def record(
        self, model: ExportableModel, sample: SampleInputs, contract: Contract
    ) -> Callable[[Path], object]:
        """Record the model as ONNX: see ``ExportMethod.record``."""
        export = _export_program if self.exporter == "dynamo" else _export_trace
        with torch.no_grad(), _quiet():
            proto = export(model, sample, contract, self.opset_version)
        _strip(proto)
        onnx.helper.set_model_props(proto, describe_processing(contract))
        for value, spec in zip(
            (*proto.graph.input, *proto.graph.output), (*contract.inputs, *contract.outputs), strict=True
        ):
            _name_dims(value, spec)
        if [entry.version for entry in proto.opset_import if entry.domain == ""] != [self.opset_version]:
            raise ExportError(
                "the exporter wrote another opset than the requested one",
                got=[(entry.domain, entry.version) for entry in proto.opset_import],
                expected=self.opset_version,
                remedy="choose the opset that it wrote",
            )
        onnx.checker.check_model(proto)
        return partial(onnx.save, proto)


def describe_processing(contract: Contract) -> dict[str, str]:
    """Return what a user of the file alone needs around the graph, as the file's ``metadata_props``.

    ``channel_order`` is a word. The others are JSON: ``resize`` with ``min_size`` and ``max_size`` in px,
    and the lists of names that the contract has.
    """
    values: dict[str, Any] = {"resize": asdict(contract.resize)}
    names = ("class_names", "stuff_class_names", "keypoint_names")
    values |= {name: getattr(contract, name) for name in names if getattr(contract, name)}
    encoded = {name: json.dumps(value, ensure_ascii=False) for name, value in values.items()}
    return dict(sorted((encoded | {"channel_order": contract.channel_order}).items()))


def _by_option(option: str) -> str:
    """Return how to set an option on the command line and in the pipeline."""
    return f"set --opt {option}; in the pipeline artifacts.<name>.method.{option}"


def _export_program(
    model: ExportableModel,
    sample: SampleInputs,
    contract: Contract,
    opset_version: int,
) -> onnx.ModelProto:
    """Translate the ``ExportedProgram`` of a model to ONNX.

    Raises:
        ExportError: ``torch.export`` cannot record the model, or an operator has no translation.
    """
    with nms_recorded_whole():
        recorded = record_program(model, sample, contract)
    try:
        # The translation records the program again, with ONNX's decompositions.
        with dynamic_nms_count():
            program = torch.onnx.export(
                recorded,
                (),
                dynamo=True,
                input_names=[spec.name for spec in contract.inputs],
                output_names=list(contract.output_names),
                opset_version=opset_version,
                custom_translation_table=TRANSLATIONS,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        remedy = f"rewrite what is named, or, if it traces, {_by_option('exporter=torchscript')}"
        raise _untranslatable("the recorded program", error, remedy) from error
    assert program is not None
    return program.model_proto


def _export_trace(
    model: ExportableModel,
    sample: SampleInputs,
    contract: Contract,
    opset_version: int,
) -> onnx.ModelProto:
    """Translate the trace of a model to ONNX.

    Raises:
        ExportError: the model cannot be traced, or an operator has no translation.
    """
    file = io.BytesIO()
    with nms_recorded_whole(), warnings.catch_warnings():
        # It warns of constants and negative indices; running the artifact afterwards reveals those.
        warnings.simplefilter("ignore", (torch.jit.TracerWarning, UserWarning))
        try:
            torch.onnx.export(
                image_graph(model, contract),
                example_inputs(sample, contract),
                file,  # type: ignore[arg-type]  # also accepts a file
                dynamo=False,
                input_names=[spec.name for spec in contract.inputs],
                output_names=list(contract.output_names),
                dynamic_axes={spec.name: _free_dims(spec) for spec in (*contract.inputs, *contract.outputs)},
                opset_version=opset_version,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            remedy = "rewrite what is named, or export the model by tracing"
            raise _untranslatable("the trace", error, remedy) from error
        except RuntimeError as error:
            raise untraceable(model, error) from error
    proto = onnx.load_from_string(file.getvalue())
    for value, spec in zip(proto.graph.output, contract.outputs, strict=True):
        # This exporter infers fewer shapes than the other; the contract has the missing sizes.
        for dim, size in zip(value.type.tensor_type.shape.dim, spec.shape, strict=True):
            if isinstance(size, int) and not dim.HasField("dim_value"):
                dim.dim_value = size
    return proto


def _free_dims(spec: TensorSpec) -> dict[int, str]:
    return {axis: dim for axis, dim in enumerate(spec.shape) if isinstance(dim, str)}


def _untranslatable(what: str, error: Exception, remedy: str) -> ExportError:
    return ExportError(
        f"{what} cannot be written as ONNX",
        got=_cause(error),
        expected="operators that ONNX has a translation for",
        remedy=remedy,
    )


def _cause(error: BaseException) -> str:
    """Return the message of the first error in a chain, with the line of the model that it names."""
    while error.__cause__ is not None:
        error = error.__cause__
    first, *others = str(error).strip().splitlines()
    return " ".join([f"{type(error).__name__}: {first}", *(line for line in others if "Caused by" in line)])


def _strip(proto: onnx.ModelProto) -> None:
    """Remove stack traces and other metadata of the exporter, which contain local paths."""
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
    """Rename the free dimensions from the exporter's expressions to the contract's letters.

    Raises:
        ExportError: the tensor of the graph differs from the contract.
    """
    dims = value.type.tensor_type.shape.dim
    fixed = [dim.dim_value if dim.HasField("dim_value") else None for dim in dims]
    expected = [dim if isinstance(dim, int) else None for dim in spec.shape]
    if value.name != spec.name or fixed != expected:
        raise ExportError(
            "the graph differs from the contract",
            got=f"{value.name} {fixed}",
            expected=f"{spec.name} {list(spec.shape)}",
            remedy="change the model's code so that the free dimensions are those of the contract",
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
    # The second output, the argmax, is for training only.
    return pooled, pooled


TRANSLATIONS: dict[Any, Any] = {
    torch.ops.detexport.nms_per_class.default: translate_nms,
    torch.ops.torchvision.deform_conv2d.default: _deform_conv2d,
    torch.ops.torchvision.roi_pool.default: _roi_pool,
}
"""ONNX translations of the operators of torchvision and detexport that the exporter lacks."""


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's log messages; errors are still raised."""
    with only_errors("torch.onnx", "onnxscript", "onnx_ir"), warnings.catch_warnings():
        warnings.simplefilter("ignore", (FutureWarning, DeprecationWarning))
        yield
