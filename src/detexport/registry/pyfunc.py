"""The registered model's code: encoded images in, detections out.

MLflow copies this file into the model and runs it when the model is loaded ("models from code"). It imports
only what a prediction needs: an ONNX model does not import torch.
"""

import json
import warnings
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import mlflow.models
import numpy as np
import pandas as pd  # type: ignore[import-untyped]
from mlflow.models import ModelSignature
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
from mlflow.pyfunc import PythonModel

import detexport
from detexport.errors import DetexportError, OutOfMemoryError, shown
from detexport.predictions.predict_images import MASKS, THRESHOLD, predict, to_plain
from detexport.registry.pyfunc_inputs import ALLOWED, checked_locations, read_value
from detexport.registry.scoring_errors import RefusalError, hide_requests
from detexport.registry.signature import DEFAULT_THRESHOLD, build_signature
from detexport.system.digests import sha256_file


class Detector(PythonModel):
    """A detection model behind MLflow's pyfunc interface; the signature describes its inputs and outputs."""

    allowed: tuple[str, ...] = ()

    def load_context(self, context: Any) -> None:
        """Open the artifact in its target's runtime, after checking the artifact's digests.

        Args:
            context: ``artifacts["artifact"]`` is the artifact's folder, ``artifacts["target"]`` a JSON file
                with the target's ``runtime`` and the digests of this model's ``code``;
                ``model_config["device"]`` is the device to run on, ``model_config["allowed_uris"]`` the
                folders and URIs below which a request may name a file; by default there are none.
        """
        target = json.loads(Path(context.artifacts["target"]).read_text(encoding="utf-8"))
        _compare_code(target["code"])
        options = dict(target["runtime"])
        module, _, name = options.pop("_target_").rpartition(".")
        engine = getattr(import_module(module), name)(**options)
        self.allowed = checked_locations(context.model_config.get(ALLOWED, ()))
        self.session = engine.open(Path(context.artifacts["artifact"]), context.model_config["device"])
        hide_requests()

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Run the model on images of any sizes, one after another.

        Args:
            context: not used.
            model_input: the column ``image`` holds an image per row: a PNG or JPEG file, as bytes or in
                base64; an array (height, width, 3) uint8, RGB; or, below the allowed locations, the path or
                URI of a file.
            params: ``score_threshold``, for models that detect instances: only instances with a greater
                score are returned. ``masks``, for models that predict masks of instances: False leaves them
                out, and the time to paste and encode them.

        Returns:
            One row per image: ``height`` and ``width`` in px, and the outputs in the format of
            ``detexport.predictions.predict_images.to_plain``.

        Raises:
            MlflowException: a row is not an image, the column ``image`` is missing, or ``params`` holds
                anything but these; the message does not repeat the request.
        """
        options = _options(params or {}, self._signature)
        try:
            images = model_input["image"].tolist()
        except KeyError:
            given = ", ".join(map(shown, model_input.columns))
            raise RefusalError(f"there is no column 'image'; got: {given}") from None
        index = model_input.index
        if len(images) == 1 and _is_list_of_text(images[0]):
            # MLflow makes one row of {"image": ["...", "..."]}.
            images = images[0]
            index = pd.RangeIndex(len(images))
        columns = self._columns if options[MASKS] else self._columns.drop(MASKS, errors="ignore")
        # One block of objects: pandas would look into every list for a common type, which costs more.
        cells = np.empty((len(images), len(columns)), object)
        for row, image in enumerate(images):
            found = self._detect(row, image, **options)
            cells[row] = [found[name] for name in columns]
        return pd.DataFrame(cells, index=index, columns=columns)

    @cached_property
    def _columns(self) -> pd.Index:
        return pd.Index(self._signature.outputs.input_names())

    @cached_property
    def _signature(self) -> ModelSignature:
        return build_signature(self.session.artifact.contract)

    def _detect(self, row: int, value: Any, *, score_threshold: float, masks: bool) -> dict[str, Any]:
        contract = self.session.artifact.contract
        try:
            image = read_value(value, contract.channel_order, self.allowed)
            height, width = image.shape[1:]
            fields = predict(self.session, image, score_threshold, masks=masks)
            return to_plain(fields, contract, masks=masks) | {"height": height, "width": width}
        except OutOfMemoryError as error:
            raise RefusalError(f"row {row}: {error}", TEMPORARILY_UNAVAILABLE) from error
        except DetexportError as error:
            raise RefusalError(f"row {row}: {error}") from error


def _is_list_of_text(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) for one in value)


def _options(params: dict[str, Any], signature: ModelSignature) -> dict[str, Any]:
    """Return the options of a call; the signature's defaults where they are absent or None.

    Raises:
        RefusalError: a value is not what the signature says, or there is another parameter.
    """
    unknown = [name for name in params if name not in (THRESHOLD, MASKS)]
    if unknown:
        known = " and ".join(param.name for param in signature.params) or "none"
        raise RefusalError(f"unknown parameters {', '.join(map(shown, unknown))}; the parameters are {known}")
    options = {THRESHOLD: DEFAULT_THRESHOLD, MASKS: True} | {
        name: value for name, value in params.items() if value is not None
    }
    threshold, masks = options[THRESHOLD], options[MASKS]
    is_number = isinstance(threshold, int | float | np.number) and not isinstance(threshold, bool)
    if not is_number or not 0 <= threshold <= 1:
        raise RefusalError(f"{THRESHOLD} must be a number in [0, 1], got {shown(threshold)}")
    if not isinstance(masks, bool | np.bool_):
        raise RefusalError(f"{MASKS} must be true or false, got {shown(masks)}")
    return {THRESHOLD: float(threshold), MASKS: bool(masks)}


def _compare_code(digests: dict[str, str]) -> None:
    """Warn if the process has loaded another ``detexport`` than this model was registered with."""
    root = Path(detexport.__file__).parent
    others = [path for path, sha256 in digests.items() if _digest(root / path) != sha256]
    if others:
        warnings.warn(
            f"this model runs with another detexport than it was registered with: {root} differs in "
            f"{', '.join(others)}; load it in a fresh process to run it with its own",
            stacklevel=2,
        )


def _digest(path: Path) -> str | None:
    return sha256_file(path) if path.is_file() else None


mlflow.models.set_model(Detector())
