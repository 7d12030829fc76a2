"""The stages `download` and `load_checkpoint`: every parameter accounted for, new ones the same each time."""

import hashlib
import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

import download
import load_checkpoint
from detexport.checkpoint import read_state_dict
from detexport.checkpoint.load import describe_parameters
from detexport.config.cfg import load_cfg
from detexport.errors import CheckpointError
from detexport.modeling import build_model

ROOT = Path(__file__).parents[2]
HEAD = "roi_heads.box_predictor."


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the stage `build` writes of the shipped configuration, and a checkpoint of other classes."""
    folder = tmp_path_factory.mktemp("built")
    cfg = load_cfg(ROOT / "conf/detectron2/mask_rcnn.yaml")
    cfg.MODEL.DEVICE = "cpu"
    (folder / "build").mkdir()
    (folder / "build/config.yaml").write_text(cfg.dump())
    (folder / "build/parameters.json").write_text(json.dumps(describe_parameters(build_model(cfg))))
    state = build_model(cfg).state_dict()
    torch.save({"model": state}, folder / "model.pth")
    torch.save({"model": {name: _other_classes(name, t) for name, t in state.items()}}, folder / "other.pth")
    return folder


def _other_classes(name: str, tensor: Tensor) -> Tensor:
    return torch.zeros(9, *tensor.shape[1:]) if name.startswith(HEAD) else tensor


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(
    built: Path, weights: str, save_dir: str, new_parameters: list[str]
) -> tuple[dict[str, Tensor], Any]:
    options = {"weights": weights, "new_parameters": new_parameters}
    params = {"models": {"m": options}, "checkpoints": {"m": str(built / weights)}}
    Path("params.yaml").write_text(yaml.safe_dump(params))
    load_checkpoint.main(model="m", build=built / "build", save_dir=Path(save_dir))
    return read_state_dict(Path(save_dir, "model.safetensors")), json.loads(
        Path(save_dir, "load.json").read_text()
    )


def parameter_names(built: Path) -> set[str]:
    return set(json.loads((built / "build/parameters.json").read_text())["shapes"])


def test_all_of_a_checkpoint_or_nothing(built: Path, folder: Path) -> None:
    weights, report = load(built, "model.pth", "weights", [])
    assert weights.keys() == parameter_names(built)
    assert report["source"]["file"] == "model.pth"
    assert report["new_keys"] == report["missing_keys"] == []
    with pytest.raises(CheckpointError, match=r"other\.pth .*4 of another shape: roi_heads\.box_predictor"):
        load(built, "other.pth", "strict", [])
    assert not (folder / "strict").exists()


def test_a_new_head_has_the_same_values_every_time(built: Path, folder: Path) -> None:
    first, report = load(built, "other.pth", "a", [f"{HEAD}*"])
    torch.manual_seed(7)
    load(built, "other.pth", "b", [f"{HEAD}*"])
    assert (folder / "a/model.safetensors").read_bytes() == (folder / "b/model.safetensors").read_bytes()
    assert first.keys() == parameter_names(built)
    assert report["new_keys"] == sorted(name for name in first if name.startswith(HEAD))
    assert first[f"{HEAD}cls_score.weight"].std() > 0
    given = read_state_dict(built / "other.pth")
    assert torch.equal(first["backbone.fpn_output2.weight"], given["backbone.fpn_output2.weight"])


@pytest.fixture
def address(built: Path) -> Iterator[str]:
    handler = partial(SimpleHTTPRequestHandler, directory=str(built))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/model.pth"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_download_is_the_file_at_the_address(
    built: Path, folder: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETEXPORT_CACHE", str(folder / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    content = (built / "model.pth").read_bytes()
    for digest, accepted in ((hashlib.sha256(content).hexdigest(), True), ("0" * 64, False)):
        options = {"weights": f"{address}#sha256={digest}"}
        Path("params.yaml").write_text(yaml.safe_dump({"models": {"m": options}}))
        if accepted:
            download.main(model="m", save_to=Path("downloads/m"))
        else:
            with pytest.raises(CheckpointError, match="another digest"):
                download.main(model="m", save_to=Path("downloads/other"))
    assert Path("downloads/m").read_bytes() == content
    assert [path.name for path in Path("downloads").iterdir()] == ["m"]
