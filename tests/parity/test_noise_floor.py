"""The noise floor: measured on a small trained model and on planted noise, and what it makes of the table."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from detexport.checkpoint import load_weights, read_state_dict
from detexport.config.cfg import load_cfg
from detexport.contract import Contract
from detexport.errors import DataError
from detexport.modeling import build_model
from detexport.outputs import Outputs
from detexport.parity.compare import compare
from detexport.parity.eager_variants import (
    CPU_VARIANTS,
    most_threads,
)
from detexport.parity.noise_floor import (
    NoiseFloor,
    Variant,
    choose_samples,
    limits_of,
    measure_variant,
    needed,
    read_noise_floor,
    widen,
)
from detexport.reference.eager_outputs import run_eager, run_eager_batch
from detexport.reference.image_ops import noise, plain
from detexport.reference.store import Reference, SampleMeta, read_reference, write_reference
from detexport.system.files import write_json
from tiny_artifacts import tiny_contract
from tolerances import LIMITS, TOLERANCE

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "conf/detectron2/keypoint_rcnn.yaml"
WEIGHTS = ROOT / "checkpoints/keypoint_rcnn.safetensors"


@pytest.fixture(scope="module")
def model() -> Any:
    torch.set_num_threads(1)
    net = build_model(load_cfg(CONFIG)).eval()
    load_weights(net, read_state_dict(WEIGHTS))
    return net


@pytest.fixture(scope="module")
def contract(model: Any) -> Contract:
    return model.contract(("circle", "rectangle", "triangle", "star", "ring"))


@pytest.fixture(scope="module")
def folder(model: Any, contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise at two scales of its output, on which the model finds much, one color, and a batch."""
    folder = tmp_path_factory.mktemp("floor") / "reference"
    images = [noise((96, 128)), noise((96, 128), seed=1), plain((64, 64), (255.0,))]
    metas = [
        SampleMeta("noise", 1, "", (96, 128), (96, 128), 1.0),
        SampleMeta("large", 2, "", (96, 128), (192, 256), 1.0),
        SampleMeta("white", 3, "", (64, 64), (64, 64), 1.0),
    ]
    alone = [
        (meta, image, run_eager(model, image, meta.output_size, contract))
        for meta, image in zip(metas, images, strict=True)
    ]
    given = run_eager_batch(model, images, [meta.output_size for meta in metas], contract)
    together = [
        (replace(meta, id=f"batch {meta.id}", batch="1"), image, outputs)
        for meta, image, outputs in zip(metas, images, given, strict=True)
    ]
    write_reference(folder, [*alone, *together], contract=contract, environment={})
    return folder


@pytest.fixture(scope="module")
def reference(folder: Path) -> Reference:
    return read_reference(folder)


def test_samples_of_a_batch_are_left_to_batches(reference: Reference) -> None:
    ids = [sample.meta.id for sample in choose_samples(reference, 10)]
    assert ids == ["noise", "large", "white"]
    assert [sample.meta.id for sample in choose_samples(reference, 1)] == ["noise"]


def test_the_model_itself_stays_within_the_table_however_it_is_run(
    model: Any, contract: Contract, reference: Reference
) -> None:
    samples = choose_samples(reference, 3)
    measured = {}
    for name, open_variant in CPU_VARIANTS.items():
        with open_variant(model) as other:
            measured[name] = measure_variant(
                lambda image, size, net=other: run_eager(net, image, size, contract),
                samples,
                TOLERANCE,
                contract,
                name=name,
            )
        assert torch.get_num_threads() == 1
    assert set(measured["repeated"].limits.values()) == {0.0}
    floor = NoiseFloor(tuple(sample.meta.id for sample in samples), {}, measured)
    assert floor.limits["score"] > 0
    assert floor.limits["box_px"] > 0
    assert floor.limits.keys() >= {"keypoint_px", "keypoint_score", "keypoint_flip_ratio"}
    assert all(variant.unexcused == 0 for variant in measured.values())
    assert widen(TOLERANCE, floor) == TOLERANCE
    # Another memory format runs other kernels: had it not been used, nothing would differ.
    assert measured["channels_last"].limits["score"] > 0
    assert next(model.parameters()).is_contiguous()


def shifted(name: str, by: float) -> Callable[[Outputs], None]:
    def change(outputs: Outputs) -> None:
        outputs[name] = outputs[name] + np.float32(by)

    return change


@pytest.mark.parametrize(
    ("field", "by", "limits"),
    [
        ("pred_boxes", 0.09, ("box_px", "box_floor_px")),
        ("scores", 1e-3, ("score",)),
    ],
)
def test_a_widened_table_lets_the_very_noise_pass_and_grows_nothing_else(
    model: Any, contract: Contract, reference: Reference, field: str, by: float, limits: tuple[str, ...]
) -> None:
    samples = choose_samples(reference, 3)
    stored = iter([sample.expected() for sample in samples])
    change = shifted(field, by)

    def noisy(image: np.ndarray, size: tuple[int, int]) -> Outputs:
        outputs = next(stored)
        change(outputs)
        return outputs

    variant = measure_variant(noisy, samples, TOLERANCE, contract, name="planted")
    floor = NoiseFloor(tuple(sample.meta.id for sample in samples), {}, {"planted": variant})
    wider = widen(TOLERANCE, floor)
    assert {name for name, value in LIMITS.items() if getattr(wider, name) != value} == set(limits)
    for sample in samples:
        actual = sample.expected()
        change(actual)
        scale = max(np.array(sample.meta.output_size) / np.array(sample.meta.image_size))
        assert compare(
            sample.expected(), actual, tolerance=wider, contract=contract, scale=float(scale)
        ).passed
    assert [limit.name for limit in limits_of(TOLERANCE, floor) if limit.widened] == list(limits)


def test_outputs_that_cannot_be_compared_are_an_error(contract: Contract, reference: Reference) -> None:
    samples = choose_samples(reference, 1)

    def broken(image: np.ndarray, size: tuple[int, int]) -> Outputs:
        return {**samples[0].expected(), "scores": np.full(samples[0].detections, np.nan, np.float32)}

    with pytest.raises(DataError, match="run with broken") as raised:
        measure_variant(broken, samples, TOLERANCE, contract, name="broken")
    assert "NaN" in str(raised.value)


def variant(*, counts: bool = True, **limits: float) -> Variant:
    return Variant(counts, {}, limits, 0, 0)


def floor_of(**limits: float) -> NoiseFloor:
    return NoiseFloor(("a",), {}, {"threads": variant(**limits)})


def test_a_floor_is_the_largest_of_its_variants_and_tf32_is_none_of_them() -> None:
    floor = NoiseFloor(
        ("a",),
        {"threads": 2},
        {
            "threads": variant(score=1e-3, sem_seg=1e-5),
            "channels_last": variant(score=5e-4, sem_seg=3e-3),
            "cuda_tf32": variant(counts=False, score=0.5),
        },
    )
    assert floor.limits == {"score": 1e-3, "sem_seg": 3e-3}
    limits = {limit.name: limit for limit in limits_of(TOLERANCE, floor)}
    assert limits["score"].table == TOLERANCE.score
    assert limits["score"].effective == limits["score"].floor == 1e-3
    assert limits["score"].widened
    wider = widen(TOLERANCE, floor)
    assert (wider.score, wider.sem_seg) == (1e-3, 3e-3)
    assert replace(wider, score=TOLERANCE.score, sem_seg=TOLERANCE.sem_seg) == TOLERANCE


def test_a_limit_above_the_floor_stays_as_it_is() -> None:
    floor = floor_of(score=1e-6, box_px=1e-4)
    assert widen(TOLERANCE, floor) == TOLERANCE
    assert not any(limit.widened for limit in limits_of(TOLERANCE, floor))


def test_no_limit_is_widened_to_more_than_ten_times_the_table() -> None:
    table = TOLERANCE
    assert widen(table, floor_of(panoptic_ratio=1.0)).panoptic_ratio == pytest.approx(
        10 * table.panoptic_ratio
    )
    assert (
        widen(replace(TOLERANCE, score=0.0), floor_of(score=0.1)).score == 0.1
    )  # 0 asks for the floor itself


def test_a_floor_is_read_as_it_was_written(tmp_path: Path) -> None:
    floor = NoiseFloor(
        ("a", "b"), {"threads": 2}, {"threads": variant(score=1e-3), "x": variant(counts=False)}
    )
    write_json(tmp_path / "noise_floor.json", floor.to_json())
    assert read_noise_floor(tmp_path / "noise_floor.json") == floor
    (tmp_path / "noise_floor.json").write_text("{}")
    with pytest.raises(DataError, match="not a noise floor"):
        read_noise_floor(tmp_path / "noise_floor.json")


def test_a_limit_is_widened_ten_times_at_most() -> None:
    near, far = (limits_of(TOLERANCE, floor_of(score=score))[0] for score in (0.0019, 0.0021))
    assert (near.widened, far.widened) == (True, True)
    assert (near.effective, far.effective) == pytest.approx((0.0019, 10 * TOLERANCE.score))
    assert limits_of(replace(TOLERANCE, score=0.0), floor_of(score=0.1))[0].effective == 0.1


def test_masks_that_pass_by_one_limit_need_no_other() -> None:
    """Much of a small mask in few px, and little of a large one in many: both pass."""
    large, small = np.zeros((2, 1, 400, 400), bool)
    large[:] = True
    small[0, 5:10, 5:9] = True
    boxes = np.array([[0, 0, 400, 400], [5, 5, 9, 10]], np.float32)
    expected = {
        "pred_boxes": boxes,
        "scores": np.array([0.9, 0.8], np.float32),
        "pred_classes": np.zeros(2, np.int64),
        "pred_masks": np.concatenate([large, small]),
    }
    masks = expected["pred_masks"].copy()
    masks[0, 0] = False  # 400 px of 160000
    masks[1, 5] = False  # 4 px of 20
    found = compare(
        expected, {**expected, "pred_masks": masks}, tolerance=TOLERANCE, contract=tiny_contract(), scale=1.0
    )
    assert found.passed
    assert (found.errors["mask_error_px"], found.errors["mask_error_ratio"]) == (400, 0.2)
    assert (needed(found, 1.0)["mask_px"], needed(found, 1.0)["mask_area_ratio"]) == (0, 0)
    masks[1, 5:8] = False  # 12 px of 20: by neither
    found = compare(
        expected, {**expected, "pred_masks": masks}, tolerance=TOLERANCE, contract=tiny_contract(), scale=1.0
    )
    assert (needed(found, 1.0)["mask_px"], needed(found, 1.0)["mask_area_ratio"]) == (12, 0.6)


def test_the_stage_writes_the_floor_and_the_same_one_again(
    contract: Contract, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "config.yaml").write_text(load_cfg(CONFIG).dump())
    write_json(tmp_path / "build" / "contract.json", contract.to_json())
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model.safetensors").symlink_to(WEIGHTS)
    parity = yaml.safe_load((ROOT / "conf/parity/default.yaml").read_text())
    (tmp_path / "params.yaml").write_text(
        yaml.safe_dump({"data": {"categories": None}, "parity": {**parity, "noise_floor_images": 2}})
    )
    written = []
    for name in ("first.json", "second.json"):
        command = [
            sys.executable,
            str(ROOT / "stages/noise_floor.py"),
            "--build",
            "build",
            "--weights",
            "weights",
        ]
        command += ["--reference", str(folder), "--data", "none", "--save-to", name]
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]
    value = json.loads(written[0])
    assert value["variants"].keys() == {"repeated", "threads", "channels_last"}
    assert value["samples"] == ["noise", "large"]
    assert value["environment"]["threads"] == most_threads()
    assert read_noise_floor(tmp_path / "first.json").limits == value["limits"]
    # The model's own runs are on every input, the batch's among them.
    noise_by_id = {one["id"]: one for one in value["noise"]}
    ids = {"noise", "large", "white", "batch noise", "batch large", "batch white"}
    assert noise_by_id.keys() == ids
    assert noise_by_id["noise"]["limits"]["score"] > 0
    assert noise_by_id["noise"]["scores"] == []
