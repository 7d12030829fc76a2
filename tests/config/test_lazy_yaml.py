"""YAML of lazy configurations: Python tags become nodes, and nothing is executed."""

import pytest
import yaml

from detexport.config.lazy_yaml import DEEPEST, dump, load

TAGS = """
kind: &kind !!python/name:torch.nn.modules.normalization.LayerNorm ''
norm: !!python/object/apply:functools.partial
  args: [*kind]
  state: !!python/tuple
  - *kind
  - !!python/tuple []
  - {eps: 1.0e-06}
  - null
shape: !!python/object:detectron2.layers.shape_spec.ShapeSpec {channels: 8, height: null}
"""


def test_tags_become_nodes() -> None:
    kind = {"_name_": "torch.nn.modules.normalization.LayerNorm"}
    assert load(TAGS) == {
        "kind": kind,
        "norm": {"_partial_": kind, "_args_": [], "eps": 1e-6},
        "shape": {"_target_": "detectron2.layers.shape_spec.ShapeSpec", "channels": 8},
    }
    assert load(dump(load(TAGS))) == load(TAGS)


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system [echo]",
        "!!python/object/new:os.system [echo]",
        "!!python/module:os ''",
        "!!python/object:a.B [1]",
        "!!python/object/apply:functools.partial {args: []}",
        "!!python/object/apply:functools.partial {args: [a], state: [a, [], {}, {x: 1}]}",
        "a: [",
    ],
)
def test_other_tags_are_refused(text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        load(text)


@pytest.mark.parametrize(
    "value",
    [
        "${oc.env:HOME}",
        "${oc.decode:${x}}",
        "${x}${x}",
        "${a.${b}}",
        "${x",
        "[1, {deep: '${oc.env:HOME}'}]",
        "{'${oc.env:HOME}': 1}",
    ],
)
def test_an_interpolation_only_refers_to_a_key(value: str) -> None:
    with pytest.raises(yaml.YAMLError, match="more than one reference to a key"):
        load(f"key: {value}" if value[0] in "[{" else f"key: '{value}'")
    assert load("key: ./${..output.name}.txt") == {"key": "./${..output.name}.txt"}


def test_deep_documents_are_refused() -> None:
    assert load("[" * (DEEPEST - 1) + "1" + "]" * (DEEPEST - 1))
    with pytest.raises(yaml.YAMLError, match=f"more than {DEEPEST} levels"):
        load("[" * DEEPEST + "1" + "]" * DEEPEST)
