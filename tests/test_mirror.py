"""A module's test is found by its name: ``tests/<room>/test_<module>.py``, ``test_fuzz_<module>.py``."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SRC, TESTS = ROOT / "src" / "detexport", ROOT / "tests"
# Modules that are tested with what they are a part of. A new module gets a test of its name.
TESTED_IN = {
    "checkpoint/older_names.py": "export/test_torchvision.py",
    "cli/output.py": "cli/test_main.py",
    "cli/package.py": "workflows/test_package.py",
    "cli/serve.py": "serving/test_server.py",
    "cli/progress.py": "cli/test_export.py",
    "data/image_samples.py": "convert/test_convert_artifacts.py",
    "diagnosis/segment_exports.py": "diagnosis/test_diagnose.py",
    "formats/coordinate_operators.py": "runtime/test_openvino.py",
    "formats/onnx_opsets.py": "cli/test_checks.py",
    "formats/openvino_constants.py": "convert/test_convert_artifacts.py",
    "formats/openvino_import.py": "convert/test_convert_artifacts.py",
    "metrics/average_precision.py": "engine/test_evaluation.py",
    "modeling/class_names.py": "stages/test_build_stage.py",
    "modeling/graph.py": "export/test_graph_end.py",
    "modeling/proposal_generator/precomputed.py": "modeling/test_oracle.py",
    "modeling/segment.py": "diagnosis/test_segments.py",
    "outputs.py": "parity/test_validate.py",
    "parity/compare/field_comparison.py": "parity/compare/test_match_detections.py",
    "parity/compare/compare_image.py": "parity/compare/test_match_detections.py",
    "parity/compare/tolerance.py": "parity/compare/test_match_detections.py",
    "parity/measures.py": "report/test_page.py",
    "parity/eager_variants.py": "parity/test_noise_floor.py",
    "parity/report_text.py": "cli/test_validate_command.py",
    "parity/verdict.py": "parity/test_validate.py",
    "predictions/detections.py": "test_api.py",
    "predictions/detector.py": "test_api.py",
    "predictions/image_input.py": "test_api.py",
    "predictions/records.py": "cli/test_predict.py",
    "reference/batching.py": "reference/test_inputs.py",
    "reference/eager_outputs.py": "stages/test_reference_stage.py",
    "reference/image_ops.py": "reference/test_inputs.py",
    "reference/input_coverage.py": "reference/test_inputs.py",
    "reference/input_images.py": "reference/test_inputs.py",
    "reference/input_plan.py": "reference/test_inputs.py",
    "reference/eager_samples.py": "reference/test_inputs.py",
    "reference/store.py": "parity/test_validate.py",
    "report/collect.py": "report/test_page.py",
    "serving/app.py": "serving/test_server.py",
    "serving/bodies.py": "serving/test_server.py",
    "serving/dockerfile.py": "workflows/test_package.py",
    "serving/kserve.py": "workflows/test_package.py",
    "serving/limits.py": "serving/test_server.py",
    "serving/statistics.py": "serving/test_server.py",
    "serving/triton.py": "workflows/test_package.py",
    "structures/model_input.py": "modeling/test_bad_input.py",
    "system/script.py": "config/test_instantiate.py",
    "targets/component.py": "targets/test_table.py",
    "targets/opsets.py": "cli/test_checks.py",
    "workflows/check_artifact.py": "cli/test_export.py",
    "workflows/engines.py": "cli/test_validate_command.py",
    "workflows/expected_outputs.py": "cli/test_validate_command.py",
    "workflows/export_checks.py": "workflows/test_python_api.py",
    "workflows/export_target.py": "cli/test_export.py",
    "workflows/given_model.py": "workflows/test_python_api.py",
    "workflows/load_detector.py": "test_api.py",
    "workflows/loaded_model.py": "workflows/test_load_model.py",
    "workflows/make_reference.py": "stages/test_reference_stage.py",
    "workflows/measure_noise.py": "parity/test_noise_floor.py",
    "workflows/model_folder.py": "cli/test_diagnose_command.py",
    "workflows/model_source.py": "workflows/test_load_model.py",
    "workflows/register.py": "registry/test_register_stage.py",
    "workflows/sample_folder.py": "workflows/test_make_sample.py",
    "workflows/serve.py": "serving/test_server.py",
    "workflows/progress_callback.py": "cli/test_export.py",
    "workflows/validate_against.py": "cli/test_validate_command.py",
    "workflows/validate_target.py": "stages/test_validate_and_gate.py",
    "workflows/validation_data.py": "cli/test_validate_command.py",
}
# A use case is tested through the stage or the command that calls it.
CALLERS = {"workflows": ("workflows", "stages", "cli")}
MODULES = sorted(path.relative_to(SRC) for path in SRC.rglob("*.py") if not path.name.startswith("__"))
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
