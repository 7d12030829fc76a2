"""The targets that one can ship, with their defaults: what each is made by and what runs it.

``conf/artifact`` and ``conf/export`` select from this table and override it; a test holds them against it.
Classes are named by their dotted path: a package is imported only for a target that needs it.
"""

from dataclasses import dataclass, field, fields, replace
from importlib import import_module
from typing import Any

import yaml

from detexport.errors import ConfigError, RuntimeUnavailableError


@dataclass(frozen=True)
class Part:
    """A frozen dataclass by its dotted path, with those of its options that are not its own defaults."""

    path: str
    options: dict[str, Any] = field(default_factory=dict)

    def build(self) -> Any:
        """The object.

        Raises:
            RuntimeUnavailableError: a package that it needs is not installed.
        """
        module, _, name = self.path.rpartition(".")
        try:
            return getattr(import_module(module), name)(**self.options)
        except ModuleNotFoundError as error:
            raise RuntimeUnavailableError(
                f"{name} needs a package that is not installed",
                got=f"no module {error.name}",
                remedy="pip install 'detexport[onnx,openvino]'",
            ) from error


@dataclass(frozen=True)
class Recipe:
    """How an artifact is made.

    Args:
        maker: an export method, or a conversion.
        source: the artifact that the conversion starts from; empty for an export method.
    """

    maker: Part
    source: str = ""


@dataclass(frozen=True)
class Target:
    """What is shipped.

    Args:
        artifact: name in ``ARTIFACTS``.
        runtime: the engine, with its options.
        precision: of what the artifact computes in, where it is less than float32: it is judged by its
            average precision then, not number by number.
    """

    artifact: str
    runtime: Part
    precision: str = ""


ARTIFACTS = {
    "tracing": Recipe(Part("detexport.export.tracing.Tracing")),
    "scripting": Recipe(Part("detexport.export.scripting.Scripting")),
    "onnx": Recipe(Part("detexport.export.onnx.Onnx")),
    "onnx_torchscript": Recipe(Part("detexport.export.onnx.Onnx", {"exporter": "torchscript"})),
    "torch_export": Recipe(Part("detexport.export.torch_export.TorchExport")),
    "aot_inductor": Recipe(Part("detexport.convert.aot_inductor.AotInductor"), "torch_export"),
    "onnx_int8": Recipe(Part("detexport.convert.onnx_int8.OnnxInt8"), "onnx"),
    "openvino": Recipe(Part("detexport.convert.openvino.OpenVino"), "onnx"),
    "openvino_int8": Recipe(Part("detexport.convert.openvino_int8.OpenVinoInt8"), "openvino"),
}
TORCHSCRIPT = Part("detexport.runtime.torchscript.TorchScript")
ONNX_RUNTIME = Part("detexport.runtime.onnxruntime.OnnxRuntime")
OPENVINO = Part("detexport.runtime.openvino.OpenVino")
TARGETS = {
    "tracing": Target("tracing", TORCHSCRIPT),
    "scripting": Target("scripting", TORCHSCRIPT),
    "onnx": Target("onnx", ONNX_RUNTIME),
    "onnx_torchscript": Target("onnx_torchscript", ONNX_RUNTIME),
    "torch_export": Target("torch_export", Part("detexport.runtime.exported_program.ExportedProgram")),
    "aot_inductor": Target("aot_inductor", Part("detexport.runtime.aot_inductor.AotInductor")),
    "onnx_int8": Target("onnx_int8", ONNX_RUNTIME, "int8"),
    "openvino": Target("openvino", OPENVINO),
    "openvino_bf16": Target(
        "openvino", Part("detexport.runtime.openvino.OpenVino", {"precision": "bf16"}), "bf16"
    ),
    "openvino_int8": Target("openvino_int8", OPENVINO, "int8"),
}


def find_target(name: str) -> Target:
    """The target of a name.

    Raises:
        ConfigError: there is none.
    """
    if name not in TARGETS:
        raise ConfigError(
            "unknown target", got=repr(name), expected=f"one of {', '.join(TARGETS)}", remedy="choose one"
        )
    return TARGETS[name]


def artifact_chain(name: str) -> list[str]:
    """The names of an artifact and of those that it is made from, in the order in which they are made."""
    chain = [name]
    while source := ARTIFACTS[chain[0]].source:
        chain.insert(0, source)
    return chain


def build_makers(artifact: str, options: list[str]) -> dict[str, Any]:
    """Export methods and conversions of an artifact's chain, by the name of what each makes.

    Args:
        artifact: name of the artifact.
        options: ``"name=value"``, given to that part of the chain that has it, or ``"artifact.name=value"``;
            values are read as YAML.

    Raises:
        ConfigError: an option is not of this form, no part has it, or its value is of another type.
    """
    makers = {name: ARTIFACTS[name].maker.build() for name in artifact_chain(artifact)}
    for option in options:
        key, equals, text = option.partition("=")
        owner, _, name = key.rpartition(".")
        takers = [one for one in makers if owner in ("", one) and name in _options(makers[one])]
        if not equals or len(takers) != 1:
            raise _unknown_option(option, artifact, makers)
        makers[takers[0]] = _with_option(makers[takers[0]], name, _parsed(text), option)
    return makers


def _options(maker: Any) -> list[str]:
    return [one.name for one in fields(maker)]


def _parsed(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _with_option(maker: Any, name: str, value: Any, option: str) -> Any:
    default = getattr(maker, name)
    if isinstance(default, tuple) and isinstance(value, list):
        value = tuple(value)
    if default is not None and type(value) is not type(default):
        raise ConfigError(
            f"the option {name} has another type",
            got=option,
            expected=f"{type(default).__name__}, such as {name}={default}",
            remedy="correct the value",
        )
    return replace(maker, **{name: value})


def _unknown_option(option: str, artifact: str, makers: dict[str, Any]) -> ConfigError:
    known = [
        f"{one}.{name}={getattr(maker, name)}" for one, maker in makers.items() for name in _options(maker)
    ]
    return ConfigError(
        f"the artifact {artifact} has no such option",
        got=option,
        expected=f"NAME=VALUE, one of {', '.join(known)}" if known else "no option at all",
        remedy="correct the name, put the artifact's before it where several have it, or leave it out",
    )
