"""Versions of the packages that results may depend on."""

from importlib import metadata

PACKAGES = (
    "detexport",
    "numpy",
    "scipy",
    "pycocotools",
    "torch",
    "torchvision",
    "onnx",
    "onnxruntime",
    "openvino",
    "nncf",
    "mlflow",
)
"""Packages whose versions references, certificates and registered versions record."""


def pinned(distribution: str) -> str:
    """Return an installed distribution as a pip requirement, such as ``numpy==2.4.0``.

    A local version label (+cpu, +cu130) is left out: it names a build that the package index does not have.

    Raises:
        PackageNotFoundError: it is not installed.
    """
    return f"{distribution}=={metadata.version(distribution).partition('+')[0]}"


def package_versions() -> dict[str, str]:
    """Return the version of each package of ``PACKAGES`` that is installed."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
