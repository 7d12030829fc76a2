"""Configurations in Python: executed only if trusted, in a process of their own."""

import os
from pathlib import Path

import pytest
from torch import nn

from detexport.config import LazyConfig, instantiate
from detexport.config.lazy_python import TRUST
from detexport.errors import ConfigError

BASE = """
from functools import partial
from torch import nn
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec

model = L(nn.Sequential)(_args_=[])
layer = L(nn.Linear)(in_features=2, out_features="${.in_features}")
options = {"deep": {"value": 1}}
shape = ShapeSpec(channels=3)
"""
MAIN = """
import os
from torch import nn
from .base import layer, options
from .base import layer as other
from ..%s.base import layer as third
from detectron2.config import LazyCall as L

layer.in_features = 4
options.deep.value = 2
model = {"norm": lambda c: nn.GroupNorm(2, c, 1e-3), "act": lambda size: nn.LayerNorm(size, eps=1e-2)}
train = {"process": os.getpid()}
print("printed by the file")
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "base.py").write_text(BASE)
    path = tmp_path / "main.py"
    path.write_text(MAIN % tmp_path.name)
    return path


def test_code_is_executed_only_if_trusted(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TRUST, raising=False)
    file.write_text(f"open({str(file.parent / 'executed')!r}, 'w')\n")
    with pytest.raises(ConfigError, match="--trust-config"):
        LazyConfig.load(file)
    assert not (file.parent / "executed").exists()
    with pytest.raises(ConfigError, match="no such file"):
        LazyConfig.load(file.parent / "absent.py", trust=True)


def test_a_trusted_file(file: Path) -> None:
    cfg = LazyConfig.load(file, trust=True)
    assert cfg.train.process != os.getpid()
    # Each relative import executes the file anew.
    assert (cfg.layer.in_features, cfg.layer.out_features, cfg.other.in_features) == (4, 4, 2)
    assert cfg.third.in_features == 2
    assert cfg.options.deep.value == 2
    norm, act = instantiate(cfg.model.norm)(8), instantiate(cfg.model.act)(5)
    assert isinstance(norm, nn.GroupNorm)
    assert (norm.num_groups, norm.num_channels, norm.eps) == (2, 8, 1e-3)
    assert isinstance(act, nn.LayerNorm)
    assert (act.normalized_shape, act.eps) == ((5,), 1e-2)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("import sys; sys.exit(3)", "exit code 3"),
        ("print('model: 1'); raise SystemExit", "exit code 0 before its end"),
        ("x = 1", "defines no configuration"),
        ("model = {'f': lambda a, b: a}", "cfg.model.f cannot be written .*a function without a name"),
        ("model = {'f': lambda a: a + 1}", "cfg.model.f cannot be written .*a function without a name"),
        ("model = {'f': lambda a: print([a])}", "cfg.model.f cannot be written .*a function without a name"),
    ],
)
def test_code_that_fails(file: Path, code: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(code)
    monkeypatch.setenv(TRUST, "1")
    with pytest.raises(ConfigError, match=message):
        LazyConfig.load(file)
