"""``detexport verify``: compare a registered version with its digests, and run its sample again."""

from detexport.cli.output import print_json
from detexport.system.progress import step
from detexport.workflows.verify import verify as verify_version


def verify(uri: str, *, device: str, sample: bool, provenance_sha256: str, as_json: bool) -> bool:
    """Verify a version and print each check; return whether all of them passed.

    Raises:
        DetexportError: see ``detexport.workflows.verify``.
    """
    result = verify_version(uri, device=device, sample=sample, provenance_sha256=provenance_sha256, step=step)
    if as_json:
        print_json(result.to_json())
        return result.holds
    print(f"{uri}: {result.name} version {result.version}, provenance {result.provenance_sha256 or 'none'}")
    for check in result.checks:
        status = "not done" if not check.done else "ok" if check.holds else "FAILED"
        print(f"  {check.name:12} {status:8}  {check.detail}".rstrip())
        for fault in check.faults:
            print(f"    {fault}")
    failed = [check.name for check in result.checks if check.done and not check.holds]
    print(f"failed: {', '.join(failed)}" if failed else "all checks passed")
    return result.holds
