from importlib import metadata

from detexport.system.versions import PACKAGES, package_versions


def test_versions_are_those_of_the_installed_distributions() -> None:
    versions = package_versions()
    assert versions["numpy"] == metadata.version("numpy")
    assert versions["detexport"] == metadata.version("detexport")
    assert versions.keys() <= set(PACKAGES)


def test_every_runtime_of_a_target_is_recorded() -> None:
    """A verdict depends on the runtime."""
    from detexport.targets.table import targets

    modules = {package for target in targets().values() for package in target.runtime.packages}
    assert modules <= set(PACKAGES)
