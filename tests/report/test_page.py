import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from budgets import BUDGET

from detexport.parity.validate import validate_artifact
from detexport.processing.postprocess import postprocess
from detexport.reference.store import SampleMeta, read_reference, write_reference
from detexport.report.collect import Results, collect
from detexport.report.page import write_page
from detexport.runtime.onnxruntime import OnnxRuntime
from detexport.system.files import write_json
from tiny_artifacts import tiny_image, write_tiny_onnx
from tolerances import TOLERANCE

JOBS = {
    f"tiny-{target}": {"model": "tiny", "target": target, "artifact": target} for target in ("onnx", "lost")
}


def collected(root: Path, jobs: dict[str, Any] = JOBS) -> Results:
    return collect(
        jobs,
        root / "models",
        root / "registered.json",
        root / "data",
        root / "checkpoints",
        promoted=root / "promoted.json",
    )


def page_of(results: Results, folder: Path) -> str:
    write_page(results, folder / "index.html", budget=BUDGET)
    return (folder / "index.html").read_text(encoding="utf-8")


def copy_without(run: Path, folder: Path, *patterns: str) -> Path:
    """A copy of a run in which the stages that write ``patterns`` have not run."""
    left_out = {path for pattern in patterns for path in run.glob(pattern)}
    for path in run.rglob("*"):
        if path.is_file() and not left_out & {path, *path.parents}:
            target = folder / path.relative_to(run)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return folder


class Text(HTMLParser):
    """Well-formedness, the text, and everything that the page refers to."""

    VOID = ("meta", "br", "link", "rect", "line", "image", "use", "wbr", "col")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.tags: set[str] = set()
        self.words: list[str] = []
        self.feed(page)
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.references += [value or "" for name, value in attrs if name in ("href", "src")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.references += [value or "" for name, value in attrs if name in ("href", "src")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_a_pair_that_was_left_out_is_shown_with_its_reason(run: Path, tmp_path: Path) -> None:
    declared = {"tiny-scripting": {"reason": "a loop <of its own>", "upstream": "issue 7"}}
    registered, data = run / "registered.json", run / "data"
    results = collect(JOBS, run / "models", registered, data, run / "checkpoints", declared)
    page = page_of(results, tmp_path)
    for told in ("tiny-scripting", "unsupported", "a loop &lt;of its own&gt;", "issue 7"):
        assert told in page
    assert "unsupported" not in page_of(collected(run), tmp_path)


def test_a_run_is_told_with_its_failure(run: Path, tmp_path: Path) -> None:
    text = Text(page_of(collected(run), tmp_path)).text
    assert "1 of 2 jobs passed" in text
    assert "1 version registered" in text
    assert "tiny-onnx v3" in text
    assert "tiny-lost is not shipped" in text
    assert "missing: class 0" in text
    assert "2.5 MB" in text
    assert "CUDA skipped no CUDA device on this machine" in text
    assert "(R, 28, 28)" in text
    assert "bbox/AP 0.61" in text
    assert "circle 0.7" in text
    assert "Ship tiny-onnx version 3" in text
    assert "this version replaced version 2 as the champion" in text
    assert "latency cpu p50 ms 5 4.5 5.5" in text
    assert "2 January 2026, 03:04 UTC" in text
    assert "revision 0123456789" in text


@pytest.mark.parametrize(("data", "reason"), [("data", "instances_val.json"), ("none", "no folder")])
def test_ground_truth_that_cannot_be_read_is_said_with_the_reason(
    data: str, reason: str, run: Path, tmp_path: Path
) -> None:
    write_page(collected(run), tmp_path / "index.html", budget=BUDGET, data_dir=run / data)
    text = Text((tmp_path / "index.html").read_text(encoding="utf-8")).text
    (fault,) = re.findall(r"tiny: ground truth that is not drawn\. (.*?) (?=tiny-onnx)", text)
    assert reason in fault
    assert "remedy" in fault
    assert text.count("not readable: see the reason above") == 2, "once for each job"


def test_the_page_needs_nothing_beside_it(run: Path, tmp_path: Path) -> None:
    page = page_of(collected(run), tmp_path)
    parsed = Text(page)
    assert parsed.references
    assert all(reference.startswith(("data:image/", "#")) for reference in parsed.references)
    assert "script" not in parsed.tags
    assert "url(" not in page
    assert "@import" not in page


def test_names_from_outside_are_text_and_secrets_stay_outside(run: Path, tmp_path: Path) -> None:
    page = page_of(collected(run), tmp_path)
    assert re.search(r"&lt;[12]&gt;\.png", page)
    assert not re.search(r"<[12]>\.png", page)
    assert "secret" not in page
    assert "http://registry.example:5000/x" in page


def test_the_report_does_not_import_torch() -> None:
    """The import of torch takes seconds, and the report needs none of it."""
    code = "import sys, detexport.report.page; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_same_run_gives_the_same_bytes(run: Path, tmp_path: Path) -> None:
    assert page_of(collected(run), tmp_path / "a") == page_of(collected(run), tmp_path / "b")


def test_the_artifacts_own_detections_are_drawn(run: Path, tmp_path: Path) -> None:
    """Of one sure detection: the eager model's panel has it, that of the artifact that lost it does not."""
    page = page_of(collected(run), tmp_path)
    counts = re.findall(r'aria-label="(\w+): (\w+) detections? with a score of at least 0.5"', page)
    assert counts == [("eager", "1"), ("onnx", "1"), ("eager", "1"), ("lost", "0")]
    assert page.count('class="o-missing"') == 1


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        (["registered.json"], "0 versions registered"),
        (["models/tiny/latency.json"], "Not measured"),
        (["models/tiny/parity/lost*"], "no verdict"),
        (["models/tiny/parity"], "nothing to draw"),
        (["models/tiny/build"], "No contract"),
        (["data", "checkpoints"], "1 of 2 jobs passed"),
        (["models", "registered.json", "data"], "0 of 2 jobs passed"),
    ],
)
def test_the_report_builds_whatever_is_missing(
    missing: list[str], said: str, run: Path, tmp_path: Path
) -> None:
    root = copy_without(run, tmp_path / "run", *missing)
    assert said in Text(page_of(collected(root), tmp_path)).text


def test_the_report_builds_with_no_job_at_all(run: Path, tmp_path: Path) -> None:
    text = Text(page_of(collected(run, {}), tmp_path)).text
    assert "0 of 0 jobs passed" in text
    assert "No job was requested" in text


def test_a_candidate_that_was_not_measured_is_named(run: Path, tmp_path: Path) -> None:
    root = copy_without(run, tmp_path / "run")
    path = root / "models/tiny/latency.json"
    latency = json.loads(path.read_text())
    latency["devices"]["cpu"]["failed"] = {"lost": "RuntimeError: out of memory"}
    latency["devices"]["cpu"]["runners"] = {}
    write_json(path, latency)
    assert "lost not measured RuntimeError: out of memory" in Text(page_of(collected(root), tmp_path)).text


def test_untrained_parameters_are_named(run: Path, tmp_path: Path) -> None:
    root = copy_without(run, tmp_path / "run")
    assert "instead of trained ones" not in Text(page_of(collected(root), tmp_path)).text
    write_json(root / "models/tiny/weights/load.json", {"new_keys": ["head.weight", "head.bias"]})
    text = Text(page_of(collected(root), tmp_path)).text
    assert "tiny has 2 tensors with initial values instead of trained ones" in text
    assert "head.bias" in text


@pytest.mark.parametrize(
    ("kind", "texts"),
    [
        (
            "keypoints",
            ["keypoints 0 px 0.02 px x scale", "keypoint scores 0 0.002 of each", "head, foot"],
        ),
        (
            "semantic",
            ["semantic logits 0 0.002", "things, green, blue", "difference classes differ in 0 pixels"],
        ),
        (
            "panoptic",
            ["panoptic pixels 0 0.001 of all", "stuff of at least 20 px", "segments differ in 0 pixels"],
        ),
        ("proposals", ["objectness logits 0 0.002", "boxes 0 px 0.01 px x scale"]),
    ],
)
def test_every_kind_of_model_has_its_errors_and_its_picture(
    kind: str, texts: list[str], tmp_path: Path
) -> None:
    model = tmp_path / "models" / "tiny"
    artifact = write_tiny_onnx(model / "artifacts" / "onnx", kind)
    contract, engine = artifact.contract, OnnxRuntime(threads=1)
    write_json(model / "build" / "contract.json", contract.to_json())
    image, size = tiny_image(), (30, 50)
    outputs = postprocess(engine.open(model / "artifacts" / "onnx")(image), size, size, contract)
    meta = SampleMeta("0001-1x", 1, "1.png", size, size, 1.0)
    write_reference(model / "reference", [(meta, image, outputs)], contract=contract, environment={})
    reference = read_reference(model / "reference")
    report = validate_artifact(
        engine, model / "artifacts" / "onnx", reference, TOLERANCE, job="tiny-onnx", draw=1
    )
    assert report.passed, report.reasons
    report.save(model / "parity" / "onnx.json", model / "parity" / "onnx_drawn.npz")
    page = page_of(collected(tmp_path, {"tiny-onnx": JOBS["tiny-onnx"]}), tmp_path)
    told = Text(page).text
    for text in texts:
        assert text in told
    assert ("<circle " in page) == (kind == "keypoints")
