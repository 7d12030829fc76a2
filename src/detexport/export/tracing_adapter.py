"""Adapter of models with rich inputs and outputs to ``torch.jit.trace``, which supports tuples of tensors."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from detexport.errors import ExportError
from detexport.export.flatten import Schema, flatten
from detexport.structures.model_output import raw_outputs


class TracingAdapter(nn.Module):
    """A model with flattened inputs and outputs, and the schemas to rebuild them.

    ::

        adapter = TracingAdapter(model, inputs)
        traced = torch.jit.trace(adapter, adapter.flattened_inputs)
        outputs = adapter.outputs_schema(traced(*adapter.flattened_inputs))

    Args:
        model: the model.
        inputs: one argument of the model, or a tuple of its arguments.
        inference_func: called with the model and the arguments; by default the model's ``inference`` without
            post-processing, if it has that option (a trace would record the pixels of a mask as constants),
            else the model itself: see ``raw_outputs``.
        allow_non_tensor: leave values that are not tensors out of the inputs and outputs. There are then no
            schemas: for a single analysis, such as a count of operations.

    Attributes:
        flattened_inputs: the tensors of ``inputs``.
        inputs_schema: rebuilds the inputs from them; None with ``allow_non_tensor``.
        outputs_schema: rebuilds the outputs; None before the first call, and with ``allow_non_tensor``.

    Raises:
        ExportError: the inputs or outputs contain values other than tensors, or the structure of the outputs
            differs from that of the call before.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Any,
        inference_func: Callable[..., Any] | None = None,
        allow_non_tensor: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.inference_func = inference_func or raw_outputs
        self.allow_non_tensor = allow_non_tensor
        self.inputs = inputs if isinstance(inputs, tuple) else (inputs,)
        self.flattened_inputs, schema = flatten(self.inputs, allow_non_tensor=allow_non_tensor)
        self.inputs_schema: Schema | None = None if allow_non_tensor else schema
        self.outputs_schema: Schema | None = None

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the flattened outputs for flattened inputs.

        With ``allow_non_tensor``, ``tensors`` must be ``flattened_inputs`` themselves.
        """
        with torch.no_grad():
            if self.inputs_schema is not None:
                inputs = self.inputs_schema(tensors)
            else:
                self._require_own(tensors)
                inputs = self.inputs
            flattened, schema = flatten(
                self.inference_func(self.model, *inputs), allow_non_tensor=self.allow_non_tensor
            )
        if not self.allow_non_tensor:
            if self.outputs_schema not in (None, schema):
                raise ExportError(
                    "the structure of the model's outputs differs from that of the call before",
                    got=schema,
                    expected=self.outputs_schema,
                    remedy="trace one adapter with one kind of input",
                )
            self.outputs_schema = schema
        return flattened

    def _require_own(self, tensors: tuple[Tensor, ...]) -> None:
        if len(tensors) != len(self.flattened_inputs) or any(
            given is not own and given.data_ptr() != own.data_ptr()
            for given, own in zip(tensors, self.flattened_inputs, strict=True)
        ):
            raise ExportError(
                "the inputs cannot be built from other tensors",
                got=f"{len(tensors)} tensors",
                expected="flattened_inputs, since values that are not tensors were filtered out",
                remedy="build the adapter without allow_non_tensor",
            )
