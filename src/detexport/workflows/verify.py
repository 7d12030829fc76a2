"""Verify a registered version."""

from detexport.registry.verify import Verification, verify_version
from detexport.system.progress import Step, silent
from detexport.workflows.load_detector import registered_engine


def verify(
    uri: str,
    *,
    device: str = "cpu",
    sample: bool = True,
    provenance_sha256: str = "",
    step: Step = silent,
) -> Verification:
    """Compare a version's files with the registry, and run its stored sample again.

    Args:
        uri: ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.
        device: device to run the sample on.
        sample: whether to run it.
        provenance_sha256: see ``verify_version``.
        step: reports the download and the comparisons.

    Raises:
        ConfigError: the URI names no version.
        RegistryError: the store cannot be reached, or has no such version.
        RuntimeUnavailableError: the version's runtime or the device is not on this machine.
    """
    return verify_version(
        uri,
        engine_of=registered_engine if sample else None,
        device=device,
        provenance_sha256=provenance_sha256,
        step=step,
    )
