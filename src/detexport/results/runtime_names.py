"""The engines that run artifacts, in the words of their users."""

from detexport.system.class_source import class_attribute, required_packages

RUNTIMES = "detexport.runtime."


def engine_name(path: str) -> tuple[str, str]:
    """Return the name and the package of the engine behind a runtime's class.

    Args:
        path: a target's ``runtime._target_``; a class that is not of detexport stands for itself, without a
            package.
    """
    if not path.startswith(RUNTIMES):
        return path, ""
    return class_attribute(path, "engine"), required_packages(path)[0]
