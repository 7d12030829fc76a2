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


def package_versions() -> dict[str, str]:
    """Return the version of each package of ``PACKAGES`` that is installed."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
