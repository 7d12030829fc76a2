"""``detexport serve``: an artifact behind HTTP."""

from detexport.system.progress import say
from detexport.workflows.serve import Serving, serve

__all__ = ["report", "serve"]


def report(serving: Serving) -> None:
    """Print where the server listens and what it serves; it is ready."""
    artifact = serving.artifact
    say(
        f"{serving.url}  {artifact.format.value}, outputs: {', '.join(artifact.contract.results)}, "
        f"sha256 {artifact.sha256[:12]}"
    )
    say(f"ready after {serving.ready_s:.1f} s; the runtime loaded the model in {serving.load_s:.1f} s")
