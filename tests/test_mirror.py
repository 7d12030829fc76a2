"""A module's test is found by its name: ``tests/<room>/test_<module>.py``, ``test_fuzz_<module>.py``."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SRC, TESTS = ROOT / "src" / "detexport", ROOT / "tests"
# Modules that are tested with what they are a part of. A new module gets a test of its name.
TESTED_IN = {
    "workflows/check_artifact.py": "cli/test_export.py",
    "workflows/export_target.py": "cli/test_export.py",
    "workflows/make_reference.py": "stages/test_reference_stage.py",
    "workflows/publish.py": "registry/test_log_report.py",
    "workflows/measure_noise.py": "parity/test_noise_floor.py",
    "workflows/validate_against.py": "cli/test_validate_command.py",
}
# A use case is tested through the stage or the command that calls it.
CALLERS = {"workflows": ("workflows", "stages", "cli")}


def has_code(path: Path) -> bool:
    """Whether a module defines anything: one that gives names of others has nothing to test."""
    body = ast.parse(path.read_text()).body
    return any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in body)


MODULES = sorted(
    path.relative_to(SRC) for path in SRC.rglob("*.py") if not path.name.startswith("__") and has_code(path)
)
FILES = sorted(path.relative_to(TESTS) for path in TESTS.rglob("test_*.py"))


def named_tests(module: Path) -> list[Path]:
    """The tests of a module's room that have its name, or its package's, as words of theirs."""
    room = module.parts[0] if len(module.parts) > 1 else ""
    names = (module.stem, *module.parts[-2:-1])
    word = re.compile(rf"(^|_)({'|'.join(map(re.escape, names))})s?(_|$)")
    rooms = CALLERS.get(room, (room,))
    return [
        path
        for path in FILES
        if (path.parts[0] if len(path.parts) > 1 else "") in rooms and word.search(path.stem[len("test_") :])
    ]


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_modules_test_is_found_by_its_name(module: Path) -> None:
    elsewhere = TESTED_IN.get(module.as_posix())
    if elsewhere is None:
        assert named_tests(module), f"no test_{module.stem}.py in tests/{module.parent}"
    else:
        assert not named_tests(module), "it has a test of its name: remove it from TESTED_IN"
        assert (TESTS / elsewhere).is_file()


def test_only_modules_that_exist_are_listed() -> None:
    assert TESTED_IN.keys() <= {module.as_posix() for module in MODULES}


def test_no_two_test_files_share_a_name() -> None:
    """Pytest imports them by their names alone."""
    names = [path.name for path in FILES]
    assert len(names) == len(set(names))
