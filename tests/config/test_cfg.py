import os
import time
from pathlib import Path

import pytest
import yaml

from detexport.config import get_cfg
from detexport.config.cfg import CfgNode, load_cfg, naming_sources
from detexport.errors import ConfigError


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_defaults_are_those_of_published_configurations() -> None:
    cfg = get_cfg()
    assert cfg.VERSION == 2
    assert cfg.MODEL.META_ARCHITECTURE == "GeneralizedRCNN"
    assert cfg.MODEL.RESNETS.DEPTH == 50
    assert cfg.MODEL.RPN.PRE_NMS_TOPK_TEST == 6000
    assert cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST == 0.05
    assert cfg.MODEL.PIXEL_MEAN == [103.53, 116.28, 123.675]
    assert cfg.TEST.DETECTIONS_PER_IMAGE == 100
    assert cfg.INPUT.FORMAT == "BGR"
    assert cfg.INPUT.COLOR_AUG_SSD is False
    assert cfg.MODEL.ROI_MASK_HEAD.OUTPUT_SIDE_RESOLUTION == 7
    assert cfg.MODEL.POINT_HEAD.SUBDIVISION_NUM_POINTS == 28 * 28
    assert cfg.MODEL.IMPLICIT_POINTREND.PARAMS_L2_REGULARIZER == 1e-5


def test_configurations_do_not_share_values() -> None:
    first, second = get_cfg(), get_cfg()
    first.MODEL.PIXEL_MEAN[0] = 0.0
    first.MODEL.RESNETS.DEPTH = 18
    twin = first.clone()
    twin.MODEL.PIXEL_MEAN[1] = 0.0
    assert second.MODEL.PIXEL_MEAN[0] == 103.53
    assert second.MODEL.RESNETS.DEPTH == 50
    assert first.MODEL.PIXEL_MEAN[1] == 116.28
    assert isinstance(twin, CfgNode)
    assert isinstance(twin.MODEL.RPN, CfgNode)


def test_a_file_overrides_its_bases(tmp_path: Path) -> None:
    write(
        tmp_path / "base.yaml",
        "MODEL: {MASK_ON: true, RESNETS: {DEPTH: 18, NORM: GN}, PIXEL_STD: [1., 2., 3.]}",
    )
    write(tmp_path / "family/rcnn.yaml", "_BASE_: ../base.yaml\nMODEL: {RESNETS: {DEPTH: 34}}")
    top = write(tmp_path / "family/mine.yaml", "_BASE_: rcnn.yaml\nMODEL: {PIXEL_STD: [4., 5., 6.]}")
    cfg = load_cfg(top)
    assert cfg.MODEL.MASK_ON is True
    assert (cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.NORM) == (34, "GN")
    assert cfg.MODEL.PIXEL_STD == [4.0, 5.0, 6.0]
    assert "_BASE_" not in cfg


def test_a_base_by_an_absolute_path(tmp_path: Path) -> None:
    base = write(tmp_path / "base.yaml", "SEED: 7")
    assert load_cfg(write(tmp_path / "x/top.yaml", f"_BASE_: {base}")).SEED == 7


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"top.yaml": "_BASE_: top.yaml"}, "top.yaml is its own _BASE_"),
        ({"top.yaml": "_BASE_: a.yaml", "a.yaml": "_BASE_: ./top.yaml"}, "top.yaml is its own _BASE_"),
        ({"top.yaml": "_BASE_: absent.yaml"}, "cannot read the model configuration .*absent.yaml"),
        ({"top.yaml": "_BASE_: [a.yaml]"}, "_BASE_ of .*top.yaml is not a path"),
        ({"top.yaml": "a: [1"}, "cannot read the model configuration .*top.yaml"),
        ({"top.yaml": "- 1"}, "top.yaml is not a model configuration; got: list"),
        ({"top.yaml": ""}, "top.yaml is not a model configuration; got: NoneType"),
        (
            {"top.yaml": "MODEL: {RESNET: {DEPTH: 18}}"},
            "unknown key MODEL.RESNET in .*top.yaml.*RESNETS",
        ),
        (
            {"top.yaml": "MODEL: {RPN: {NMS_TRESH: 1.0}}"},
            r"unknown key MODEL.RPN.NMS_TRESH.*MODEL.RPN.NMS_THRESH",
        ),
        ({"top.yaml": "1: 2"}, "unknown key 1"),
        (
            {"top.yaml": "_BASE_: a.yaml", "a.yaml": "MODLE: {}"},
            "unknown key MODLE in .*a.yaml.*did you mean 'MODEL'",
        ),
        ({"top.yaml": "_BASE_: a.yaml", "a.yaml": "SEED: [1]"}, "a.yaml does not fit.*SEED"),
        ({"top.yaml": "VERSION: 1"}, "top.yaml is .*another version; got: VERSION: 1"),
        ({"top.yaml": "MODEL: 3"}, "MODEL in .*top.yaml is a group of keys; got: 3"),
        ({"top.yaml": "MODEL: {RPN: }"}, "MODEL.RPN in .*top.yaml is a group of keys; got: None"),
        ({"top.yaml": "MODEL: {RESNETS: {DEPTH: deep}}"}, "top.yaml does not fit.*DEPTH"),
        ({"top.yaml": "MODEL: {RPN: {NMS_THRESH: [0.7]}}"}, "top.yaml does not fit.*NMS_THRESH"),
        ({"top.yaml": "MODEL: {PIXEL_MEAN: {a: 1}}"}, "top.yaml does not fit.*PIXEL_MEAN"),
        ({"top.yaml": "MODEL: {WEIGHTS: 2020-01-01}"}, "top.yaml does not fit"),
        ({"top.yaml": '_BASE_: "a\\0b"'}, "top.yaml.*|null"),
        ({"top.yaml": "_BASE_: ~nosuchuser/x.yaml"}, "cannot read .*top.yaml.*home directory"),
        ({"top.yaml": f"_BASE_: {'x' * 5000}"}, "cannot read .*File name too"),
        ({"top.yaml": "_BASE_: /dev/zero"}, "cannot read .*/dev/zero.*not a regular file"),
        ({"top.yaml": "_BASE_: .."}, "cannot read .*not a regular file"),
        ({"top.yaml": "# " + "x" * (1 << 18)}, "bytes, more than the limit of 262144"),
        ({"top.yaml": "SEED: 99999999999999999999"}, "SEED in .*top.yaml is out of range"),
        ({"top.yaml": f"SEED: 0x{'F' * 20000}"}, "SEED in .*top.yaml is out of range|does not fit"),
        ({"top.yaml": f"MODEL: {{PIXEL_MEAN: [0x{'F' * 20000}, 1, 1]}}"}, "PIXEL_MEAN in .*out of range"),
        ({"top.yaml": f"VERSION: 0x{'F' * 20000}"}, "another version"),
        ({"top.yaml": f"? {'K' * 100_000}\n: 1"}, "unknown key KKK"),
        ({"top.yaml": "MODEL: {NUM_CLASSES: 3}"}, "did you mean 'MODEL"),
        ({"top.yaml": "MODEL: {ROI_HEADS: {NUM_CLASES: 3}}"}, "did you mean 'MODEL.ROI_HEADS.NUM_CLASSES'"),
    ],
)
def test_errors_name_the_file(files: dict[str, str], message: str, tmp_path: Path) -> None:
    for name, text in files.items():
        write(tmp_path / name, text)
    with pytest.raises(ConfigError, match=message):
        load_cfg(tmp_path / "top.yaml")


def test_a_missing_file() -> None:
    with pytest.raises(ConfigError, match=r"cannot read the model configuration nowhere\.yaml"):
        get_cfg().merge_from_file("nowhere.yaml")


def test_a_file_with_an_unknown_key_changes_nothing(tmp_path: Path) -> None:
    cfg = get_cfg()
    with pytest.raises(ConfigError):
        cfg.merge_from_file(write(tmp_path / "a.yaml", "SEED: 3\nUNKNOWN: 1"))
    assert cfg == get_cfg()


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("WEIGHT", "no such key; got: WEIGHT; expected: .*remedy: did you mean 'WEIGHTS'"),
        ("ZZZ", "remedy: correct the name, or add the key"),
        ("ASPP_CHANNELS", r"remedy: call add_deeplab_config\(cfg\)"),
        ("INS_EMBED_HEAD", r"remedy: call add_panoptic_deeplab_config\(cfg\)"),
    ],
)
def test_a_missing_key_is_named(key: str, message: str) -> None:
    model = get_cfg().MODEL
    assert not hasattr(model, key)
    assert getattr(model, key, 3) == 3
    with pytest.raises(ConfigError, match=message):
        getattr(model, key)


def test_overrides_by_a_list() -> None:
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.RESNETS.DEPTH", 18, "MODEL.RPN.NMS_THRESH", "0.5", "MODEL.DEVICE", "cpu"])
    cfg.merge_from_list(["MODEL.ANCHOR_GENERATOR.SIZES", "[[16], [32]]", "MODEL.MASK_ON", "True"])
    assert cfg.MODEL.RESNETS.DEPTH == 18
    assert cfg.MODEL.RPN.NMS_THRESH == 0.5
    assert cfg.MODEL.ANCHOR_GENERATOR.SIZES == [[16], [32]]
    assert cfg.MODEL.MASK_ON is True


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["MODEL.DEVICE"], "pairs of a key and a value"),
        (["MODEL.DEVIC", "cpu"], "unknown key MODEL.DEVIC .*MODEL.DEVICE"),
        (["MODEL.RESNETS.DEPTH", "deep"], "the override MODEL.RESNETS.DEPTH does not fit"),
        (["MODEL.RESNETS", 3], "MODEL.RESNETS .*is a group of keys"),
        (["MODEL.RESNETS.DEPTH.MORE", 3], "override MODEL.RESNETS.DEPTH.MORE"),
    ],
)
def test_wrong_overrides(overrides: list[object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        get_cfg().merge_from_list(overrides)


def test_a_frozen_configuration_cannot_be_changed(tmp_path: Path) -> None:
    cfg = get_cfg()
    cfg.freeze()
    path = write(tmp_path / "a.yaml", "SEED: 3")
    with pytest.raises(AttributeError):
        cfg.MODEL.DEVICE = "cpu"
    with pytest.raises(ConfigError, match="frozen"):
        cfg.merge_from_list(["SEED", 3])
    with pytest.raises(ConfigError, match="frozen"):
        cfg.merge_from_file(path)
    assert cfg.SEED == -1
    cfg.defrost()
    cfg.merge_from_file(path)
    assert cfg.SEED == 3


def test_a_dumped_configuration_is_read_back(tmp_path: Path) -> None:
    cfg = load_cfg(Path(__file__).parents[2] / "conf/detectron2/mask_rcnn.yaml")
    cfg.MODEL.WEIGHTS = "ümlaut.pth"
    text = cfg.dump()
    again = load_cfg(write(tmp_path / "dumped.yaml", text))
    assert again == cfg
    assert again.dump() == text
    assert yaml.safe_load(text)["MODEL"]["RPN"]["PRE_NMS_TOPK_TEST"] == 300


def test_a_file_with_a_wrong_type_changes_nothing(tmp_path: Path) -> None:
    cfg = get_cfg()
    with pytest.raises(ConfigError):
        cfg.merge_from_file(write(tmp_path / "a.yaml", "MODEL: {MASK_ON: true}\nSEED: deep"))
    assert cfg == get_cfg()


def test_load_yaml_with_base_returns_plain_values(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", "SEED: 1\nMODEL: {DEVICE: cpu, MASK_ON: true}")
    top = write(tmp_path / "top.yaml", "_BASE_: base.yaml\nMODEL: {MASK_ON: false}")
    expected = {"SEED": 1, "MODEL": {"DEVICE": "cpu", "MASK_ON": False}}
    assert CfgNode.load_yaml_with_base(str(top)) == expected


def test_source_of_a_value(tmp_path: Path) -> None:
    base = write(tmp_path / "base.yaml", "MODEL: {RESNETS: {DEPTH: 18, NORM: GN}, PIXEL_STD: [1., 2., 3.]}")
    top = write(tmp_path / "top.yaml", "_BASE_: base.yaml\nMODEL: {RESNETS: {NORM: BN}}")
    cfg = load_cfg(top)
    cfg.merge_from_list(["SEED", 3])
    twin = cfg.clone()
    assert twin.source_of("MODEL.RESNETS.DEPTH") == str(base)
    assert twin.source_of("MODEL.RESNETS.NORM") == str(top)
    assert twin.source_of("SEED") == "the override SEED"
    assert twin.source_of("MODEL.RPN.NMS_THRESH") is None
    twin.MODEL.RESNETS.DEPTH = 34
    twin.MODEL.PIXEL_STD[0] = 7.0
    assert twin.source_of("MODEL.RESNETS.DEPTH") is None
    assert twin.source_of("MODEL.PIXEL_STD") is None
    assert cfg.source_of("MODEL.PIXEL_STD") == str(base)
    with pytest.raises(KeyError):
        cfg.source_of("MODEL.NOTHING")


def test_errors_name_the_sources_of_values(tmp_path: Path) -> None:
    top = write(tmp_path / "top.yaml", "MODEL: {RESNETS: {DEPTH: 18}}")
    cfg = load_cfg(top)
    cfg.MODEL.MASK_ON = True
    keys = "MODEL.RESNETS.DEPTH: 18, MODEL.MASK_ON: True, SEED: -1, MODEL.NO_KEY, MODEL.RESNETS, CUDA"
    with pytest.raises(ConfigError) as caught, naming_sources(get_cfg()), naming_sources(cfg):
        raise ConfigError("these do not fit", got=keys)
    assert str(caught.value) == (
        f"these do not fit; got: {keys}; where: MODEL.RESNETS.DEPTH in {top}, MODEL.MASK_ON set in code, "
        "SEED at its default"
    )
    with pytest.raises(ConfigError, match=r"^no key$"), naming_sources(cfg):
        raise ConfigError("no key")


def test_a_clone_is_independent() -> None:
    cfg = get_cfg()
    cfg.freeze()
    twin = cfg.clone()
    assert twin.is_frozen()
    twin.defrost()
    twin.MODEL.DEVICE = "cpu"
    assert (cfg.MODEL.DEVICE, twin.MODEL.DEVICE) == ("cuda", "cpu")
    with pytest.raises(ConfigError, match="frozen"):
        cfg.merge_from_list(["MODEL.DEVICE", "cpu"])


def test_a_pipe_as_a_base_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    start = time.monotonic()
    with pytest.raises(ConfigError, match=r"pipe\.yaml; got: OSError: it is not a regular file"):
        load_cfg(write(tmp_path / "top.yaml", "_BASE_: pipe.yaml"))
    assert time.monotonic() - start < 30


def test_the_number_of_bases_is_limited(tmp_path: Path) -> None:
    for index in range(100):
        write(tmp_path / f"{index}.yaml", f"_BASE_: {index + 1}.yaml")
    with pytest.raises(ConfigError, match="too many bases"):
        load_cfg(tmp_path / "0.yaml")
    write(tmp_path / "20.yaml", "SEED: 4")
    assert load_cfg(tmp_path / "0.yaml").SEED == 4


def test_new_keys_are_merged_if_allowed(tmp_path: Path) -> None:
    cfg = get_cfg()
    cfg.set_new_allowed(True)
    path = write(tmp_path / "a.yaml", "MODEL: {VOVNET: {CONV_BODY: V-39}, RPN: {NEW: [1, 2]}}\nSEED: 3")
    cfg.merge_from_file(path)
    cfg.merge_from_list(["MODEL.VOVNET.DEPTH", "7", "MODEL.VOVNET.CONV_BODY", "V-57", "OWN", "x"])
    assert (cfg.MODEL.VOVNET.CONV_BODY, cfg.MODEL.VOVNET.DEPTH, cfg.OWN) == ("V-57", 7, "x")
    assert (cfg.MODEL.RPN.NEW, cfg.SEED) == ([1, 2], 3)
    assert cfg.source_of("MODEL.RPN.NEW") == str(path)
    assert cfg.source_of("MODEL.VOVNET.CONV_BODY") == "the override MODEL.VOVNET.CONV_BODY"
    cfg.set_new_allowed(False)
    with pytest.raises(ConfigError, match=r"unknown key MODEL\.VOVNET\.WIDTH"):
        cfg.merge_from_list(["MODEL.VOVNET.WIDTH", 3])
    with pytest.raises(ConfigError, match=r"does not fit the configuration.*SEED"):
        cfg.merge_from_list(["SEED", "deep"])


def test_new_keys_are_allowed_per_group(tmp_path: Path) -> None:
    cfg = get_cfg()
    cfg.MODEL.set_new_allowed(True)
    cfg.merge_from_file(write(tmp_path / "a.yaml", "MODEL: {MINE: 1}"))
    assert cfg.MODEL.MINE == 1
    for text in ("MINE: 1", "MODEL: {1: 2}"):
        with pytest.raises(ConfigError, match="unknown key"):
            cfg.merge_from_file(write(tmp_path / "b.yaml", text))


def test_deprecated_and_renamed_keys(tmp_path: Path) -> None:
    cfg = get_cfg()
    cfg.register_deprecated_key("MODEL.OLD")
    cfg.register_renamed_key("MODEL.FORMER", "MODEL.DEVICE")
    cfg.merge_from_file(write(tmp_path / "a.yaml", "MODEL: {OLD: 1, DEVICE: cpu}"))
    assert (cfg.MODEL.DEVICE, "OLD" in cfg.MODEL) == ("cpu", False)
    with pytest.raises(ConfigError, match=r"MODEL\.FORMER was renamed to MODEL\.DEVICE"):
        cfg.merge_from_list(["MODEL.FORMER", "cpu"])
