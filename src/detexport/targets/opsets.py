"""Check the version of ONNX's operators that a target is exported with."""

from detexport.errors import ConfigError
from detexport.formats.onnx_opsets import OLDEST, latest_written


def check_opset_version(
    artifact: str, opset: int, exporter: str, *, rois: bool, runs_onnx: bool, option: str
) -> None:
    """Check one version of ONNX's operators.

    Args:
        artifact: its name, for errors.
        opset: the version.
        exporter: of ``torch.onnx``.
        rois: whether the model pools regions, see ``detexport.config.meta_architectures``.
        runs_onnx: whether ONNX Runtime runs the file, to serve it or to calibrate on it.
        option: how the version is given, for errors.

    Raises:
        ConfigError: the exporter does not write it, or the installed ONNX Runtime does not run it.
    """
    latest, by = latest_written(exporter), f"the {exporter} exporter writes"
    if runs_onnx and (runs := _latest_that_runs(rois)) < latest:
        latest, by = runs, "the installed ONNX Runtime runs for such a model"
    if not OLDEST <= opset <= latest:
        raise ConfigError(
            f"unsupported opset_version of {artifact}",
            got=opset,
            expected=f"{OLDEST} to {latest}, which {by}",
            remedy=f"give {option}=N with N from {OLDEST} to {latest}",
        )


def _latest_that_runs(rois: bool) -> int:
    from detexport.runtime.onnxruntime import latest_opset

    return latest_opset(OLDEST, rois=rois)
