"""The registered model's code: encoded images in, detections out.

MLflow copies this file into the model and runs it when the model is loaded ("models from code"). It imports
only what a prediction needs: an ONNX model does not import torch.
"""

import base64
import json
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import mlflow.models
import numpy as np
import pandas as pd  # type: ignore[import-untyped]
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PythonModel

import detexport
from detexport.data.coco import decode_image
from detexport.errors import DataError, DetexportError
from detexport.predictions.records import predict, to_plain
from detexport.registry.signature import DEFAULT_THRESHOLD, THRESHOLD, build_signature
from detexport.system.digests import sha256_file
from detexport.system.json_values import cut

MAX_MESSAGE = 500
"""Most characters of an error message."""


class Detector(PythonModel):
    """A detection model behind MLflow's pyfunc interface; the signature describes its inputs and outputs."""

    def load_context(self, context: Any) -> None:
        """Open the artifact in its target's runtime, after checking the artifact's digests.

        Args:
            context: ``artifacts["artifact"]`` is the artifact's folder, ``artifacts["target"]`` a JSON file
                with the target's ``runtime`` and the digests of this model's ``code``;
                ``model_config["device"]`` is the device to run on.
        """
        target = json.loads(Path(context.artifacts["target"]).read_text(encoding="utf-8"))
        _compare_code(target["code"])
        options = dict(target["runtime"])
        module, _, name = options.pop("_target_").rpartition(".")
        engine = getattr(import_module(module), name)(**options)
        self.session = engine.open(Path(context.artifacts["artifact"]), context.model_config["device"])

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Run the model on encoded images of any sizes, one after another.

        Args:
            context: not used.
            model_input: the column ``image`` holds one PNG or JPEG file per row, as bytes or in base64.
            params: ``score_threshold``, for models that detect instances; only instances with a greater
                score are returned.

        Returns:
            One row per image: ``height`` and ``width`` in px, and the outputs in the format of
            ``detexport.predictions.records.to_plain``.

        Raises:
            MlflowException: a row is not an image, the column ``image`` is missing, or ``params`` holds
                anything but a ``score_threshold`` in [0, 1].
        """
        threshold = _score_threshold(params or {})
        if "image" not in model_input:
            raise _refusal("there is no column 'image'", ", ".join(map(str, model_input.columns)))
        rows = [self._detect(*item, threshold) for item in enumerate(model_input["image"])]
        names = build_signature(self.session.artifact.contract).outputs.input_names()
        return pd.DataFrame(rows, index=model_input.index, columns=names)

    def _detect(self, row: int, encoded: Any, threshold: float) -> dict[str, Any]:
        contract = self.session.artifact.contract
        try:
            image = decode_image(_to_bytes(encoded), contract.channel_order)
        except DetexportError as error:
            raise _refusal(f"row {row}: {error}") from error
        height, width = image.shape[1:]
        fields = predict(self.session, image, threshold)
        return to_plain(fields, contract) | {"height": height, "width": width}


def _refusal(what: str, got: str = "") -> MlflowException:
    """Return the error that MLflow's scoring server turns into status 400 and the message, no stack trace."""
    message = f"{what}; got: {got}" if got else what
    short = message if len(message) <= MAX_MESSAGE else f"{message[: MAX_MESSAGE - 3]}..."
    return MlflowException.invalid_parameter_value(short)


def _score_threshold(params: dict[str, Any]) -> float:
    """Return the score threshold of a call; the signature's default if it is absent or None.

    Raises:
        MlflowException: it is not a number in [0, 1], or there are other parameters.
    """
    unknown = [name for name in params if name != THRESHOLD]
    if unknown:
        raise _refusal(f"the only parameter is {THRESHOLD}", ", ".join(map(cut, unknown)))
    given = params.get(THRESHOLD)
    if given is None:
        return DEFAULT_THRESHOLD
    is_number = isinstance(given, int | float | np.number) and not isinstance(given, bool)
    if not is_number or not 0 <= given <= 1:
        raise _refusal(f"{THRESHOLD} must be a number in [0, 1], got {cut(given)}")
    return float(given)


def _to_bytes(encoded: Any) -> bytes:
    """Return the bytes of an encoded image.

    MLflow's scoring server decodes base64 itself, its other interfaces do not.
    """
    if isinstance(encoded, bytes | bytearray | memoryview):
        return bytes(encoded)
    try:
        if not isinstance(encoded, str):
            raise TypeError("not bytes, not a string")
        # Also with the prefix of a data URI (data:image/png;base64,) and with MIME's lines of 76 characters.
        text = encoded.partition(",")[2] if encoded[:5].lower() == "data:" else encoded
        return base64.b64decode("".join(text.split()), validate=True)
    except (TypeError, ValueError) as error:
        raise DataError(
            "this is not an encoded image",
            got=f"{type(encoded).__name__}: {error}",
            expected="the bytes of a PNG or JPEG file, or those in base64",
            remedy="send the bytes of the image file, not its pixels",
        ) from error


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
