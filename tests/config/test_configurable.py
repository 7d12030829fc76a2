"""``configurable``: calls with a configuration or with explicit arguments."""

from typing import Any

import pytest

from detexport.config import CfgNode, configurable, get_cfg


class Head:
    @configurable
    def __init__(self, channels: int, *, classes: int = 2, norm: str = "") -> None:
        self.values = (channels, classes, norm)

    @classmethod
    def from_config(cls, cfg: CfgNode, channels: int) -> dict[str, Any]:
        return {"channels": channels, "classes": cfg.MODEL.ROI_HEADS.NUM_CLASSES}


class WiderHead(Head):
    @classmethod
    def from_config(cls, cfg: CfgNode, channels: int, factor: int = 2) -> dict[str, Any]:
        return {**super().from_config(cfg, channels), "channels": channels * factor}


class NamedHead(Head):
    @configurable
    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(**options)
        self.name = name

    @classmethod
    def from_config(cls, cfg: CfgNode, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {**super().from_config(cfg, *args), "name": cfg.MODEL.DEVICE, **kwargs}


@configurable(from_config=lambda cfg, scale=1: {"depth": cfg.MODEL.RESNETS.DEPTH * scale})
def network(depth: int, name: str = "resnet") -> tuple[int, str]:
    return depth, name


def test_explicit_arguments() -> None:
    assert Head(8, norm="GN").values == (8, 2, "GN")
    assert network(18, name="mine") == (18, "mine")


def test_explicit_arguments_override_a_configuration() -> None:
    cfg = get_cfg()
    assert Head(cfg, 8).values == (8, 80, "")
    assert Head(cfg, channels=8).values == (8, 80, "")
    assert Head(cfg=cfg, channels=8).values == (8, 80, "")
    assert Head(cfg, 8, classes=3, norm="BN").values == (8, 3, "BN")
    assert network(cfg) == (50, "resnet")
    assert network(cfg, scale=2, name="twice") == (100, "twice")


def test_a_subclass_has_its_own_from_config() -> None:
    assert WiderHead(get_cfg(), 8).values == (16, 80, "")
    assert WiderHead(get_cfg(), 8, factor=3, classes=1).values == (24, 1, "")
    named = NamedHead(get_cfg(), 8, norm="LN")
    assert (named.name, named.values) == ("cuda", (8, 80, "LN"))


def test_a_missing_or_wrong_from_config_is_refused() -> None:
    class WithoutFromConfig:
        @configurable
        def __init__(self, channels: int) -> None:
            self.channels = channels

    class InstanceMethod(WithoutFromConfig):
        def from_config(self, cfg: CfgNode) -> dict[str, Any]:
            return {"channels": 1}

    class WrongOrder(WithoutFromConfig):
        @classmethod
        def from_config(cls, shape: int, cfg: CfgNode) -> dict[str, Any]:
            return {"channels": shape}

    assert WithoutFromConfig(3).channels == 3
    for kind in (WithoutFromConfig, InstanceMethod):
        with pytest.raises(TypeError, match=r"class method from_config\(cls, cfg\)"):
            kind(get_cfg())
    with pytest.raises(TypeError, match="cfg as its first argument"):
        WrongOrder(get_cfg())
