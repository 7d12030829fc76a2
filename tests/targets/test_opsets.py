"""The opset of an export: written by the exporter, and run by the installed ONNX Runtime."""

import pytest

from detexport.errors import ConfigError
from detexport.formats.onnx_opsets import LATEST_TORCHSCRIPT, OLDEST, latest_written
from detexport.runtime.onnxruntime import latest_opset
from detexport.targets.opsets import check_opset_version


def check(opset: int, exporter: str = "dynamo", *, rois: bool = False, runs_onnx: bool = False) -> None:
    check_opset_version("onnx", opset, exporter, rois=rois, runs_onnx=runs_onnx, option="--opt opset_version")


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_the_first_and_the_last_opset_of_an_exporter_are_accepted(exporter: str) -> None:
    check(OLDEST, exporter)
    check(latest_written(exporter), exporter)


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
@pytest.mark.parametrize("opset", [0, OLDEST - 1, latest_written("dynamo") + 1])
def test_an_opset_beyond_them_is_refused(exporter: str, opset: int) -> None:
    latest = latest_written(exporter)
    with pytest.raises(ConfigError) as refused:
        check(opset, exporter)
    assert str(refused.value) == (
        f"unsupported opset_version of onnx; got: {opset}; expected: {OLDEST} to {latest}, "
        f"which the {exporter} exporter writes; "
        f"remedy: give --opt opset_version=N with N from {OLDEST} to {latest}"
    )


@pytest.mark.parametrize("rois", [True, False])
def test_a_file_for_onnx_runtime_has_an_opset_that_it_runs(rois: bool) -> None:
    runs = latest_opset(OLDEST, rois=rois)
    latest = min(runs, latest_written("dynamo"))
    check(latest, rois=rois, runs_onnx=True)
    by = "ONNX Runtime runs" if runs < latest_written("dynamo") else "exporter writes"
    with pytest.raises(ConfigError, match=f"expected: {OLDEST} to {latest}, which .*{by}"):
        check(latest + 1, rois=rois, runs_onnx=True)


def test_models_that_pool_regions_run_with_fewer_opsets_than_others() -> None:
    """ONNX Runtime's kernel of RoiAlign is older than its others."""
    assert latest_opset(OLDEST, rois=True) < latest_opset(OLDEST, rois=False)


def test_a_runtime_that_runs_more_than_an_exporter_writes_changes_nothing() -> None:
    assert latest_opset(OLDEST, rois=True) > LATEST_TORCHSCRIPT
    check(LATEST_TORCHSCRIPT, "torchscript", rois=True, runs_onnx=True)
    with pytest.raises(ConfigError, match=f"to {LATEST_TORCHSCRIPT}, which the torchscript exporter writes"):
        check(LATEST_TORCHSCRIPT + 1, "torchscript", rois=True, runs_onnx=True)
