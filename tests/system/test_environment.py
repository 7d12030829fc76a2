import platform

import pytest

from detexport.system import environment
from detexport.system.environment import changes, describe_environment


def test_it_has_python_the_system_and_the_packages_that_results_depend_on() -> None:
    found = describe_environment()
    assert found == describe_environment()
    assert found["python"] == platform.python_version()
    assert found["os"]
    assert {"torch", "onnxruntime", "openvino"} <= found["packages"].keys()
    assert not {"detexport", "mlflow"} & found["packages"].keys()


def test_the_base_image_is_that_of_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    before = describe_environment()
    monkeypatch.setenv("DETEXPORT_BASE_IMAGE", "python@sha256:12")
    assert changes(before, describe_environment()) == ["base_image none -> python@sha256:12"]


def test_changes_name_what_is_new_gone_or_another(monkeypatch: pytest.MonkeyPatch) -> None:
    before = describe_environment()
    versions = {"torch": "9.0", "detexport": "2", "onnx": before["packages"]["onnx"], "nncf": "8"}
    monkeypatch.setattr(environment, "package_versions", lambda: versions)
    found = changes(before, describe_environment())
    assert f"torch {before['packages']['torch']} -> 9.0" in found
    assert f"openvino {before['packages']['openvino']} -> none" in found
    assert not [one for one in found if one.startswith(("onnx ", "detexport"))]
    assert changes(before, before) == []


def test_a_system_without_a_name_is_its_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> dict[str, str]:
        raise OSError

    monkeypatch.setattr(platform, "freedesktop_os_release", absent)
    assert environment.operating_system() == f"{platform.system()} {platform.release()}"
