"""The table of targets: which export method or conversion makes each artifact, and which runtime runs it.

``conf/artifact`` and ``conf/export`` select from this table and override it; a test compares them with it.
Classes are given by their dotted path, so that a package is imported only for a target that needs it.
"""

from dataclasses import dataclass, replace
from typing import Any

from detexport.errors import ConfigError, did_you_mean
from detexport.system.extras import require_packages
from detexport.targets.component import Component, DeclaredOption, written_value


@dataclass(frozen=True)
class Recipe:
    """How an artifact is made.

    Args:
        maker: an export method or a conversion.
        source: name of the artifact that the conversion converts; empty for an export method.
    """

    maker: Component
    source: str = ""


@dataclass(frozen=True)
class Target:
    """An artifact with the runtime that runs it.

    Args:
        artifact: name in ``ARTIFACTS``.
        runtime: the engine, with its options.
        precision: the inference precision if it is below float32, else empty. A target of reduced precision
            is evaluated by its AP, not by numerical error.
    """

    artifact: str
    runtime: Component
    precision: str = ""


TORCH = ("torch", "torchvision")
ONNX = (*TORCH, "onnx", "onnxscript")
ARTIFACTS = {
    "tracing": Recipe(Component("detexport.export.tracing.Tracing", packages=TORCH)),
    "scripting": Recipe(Component("detexport.export.scripting.Scripting", packages=TORCH)),
    "onnx": Recipe(Component("detexport.export.onnx.Onnx", packages=ONNX)),
    "onnx_torchscript": Recipe(Component("detexport.export.onnx.Onnx", {"exporter": "torchscript"}, ONNX)),
    "torch_export": Recipe(Component("detexport.export.torch_export.TorchExport", packages=TORCH)),
    "aot_inductor": Recipe(
        Component("detexport.convert.aot_inductor.AotInductor", packages=TORCH), "torch_export"
    ),
    "onnx_int8": Recipe(
        Component("detexport.convert.onnx_int8.OnnxInt8", packages=("onnx", "onnxruntime")), "onnx"
    ),
    "openvino": Recipe(Component("detexport.convert.openvino.OpenVino", packages=("openvino",)), "onnx"),
    "openvino_int8": Recipe(
        Component("detexport.convert.openvino_int8.OpenVinoInt8", packages=("openvino", "nncf")), "openvino"
    ),
}
TORCHSCRIPT = Component("detexport.runtime.torchscript.TorchScript", packages=TORCH)
ONNX_RUNTIME = Component("detexport.runtime.onnxruntime.OnnxRuntime", packages=("onnxruntime",))
EXPORTED_PROGRAM = Component("detexport.runtime.exported_program.ExportedProgram", packages=TORCH)
AOT_INDUCTOR = Component("detexport.runtime.aot_inductor.AotInductorRuntime", packages=TORCH)
OPENVINO = Component("detexport.runtime.openvino.OpenVinoRuntime", packages=("openvino",))
TARGETS = {
    "tracing": Target("tracing", TORCHSCRIPT),
    "scripting": Target("scripting", TORCHSCRIPT),
    "onnx": Target("onnx", ONNX_RUNTIME),
    "onnx_torchscript": Target("onnx_torchscript", ONNX_RUNTIME),
    "torch_export": Target("torch_export", EXPORTED_PROGRAM),
    "aot_inductor": Target("aot_inductor", AOT_INDUCTOR),
    "onnx_int8": Target("onnx_int8", ONNX_RUNTIME, "int8"),
    "openvino": Target("openvino", OPENVINO),
    "openvino_bf16": Target("openvino", replace(OPENVINO, options={"precision": "bf16"}), "bf16"),
    "openvino_int8": Target("openvino_int8", OPENVINO, "int8"),
}


def find_target(name: str) -> Target:
    """Return the target with a name.

    Raises:
        ConfigError: the name is unknown.
    """
    if name not in TARGETS:
        raise ConfigError(
            "unknown target",
            got=repr(name),
            expected=f"one of {', '.join(TARGETS)}",
            remedy=did_you_mean(name, TARGETS) or "choose one",
        )
    return TARGETS[name]


def require_target_packages(target: Target) -> None:
    """Check that the packages that export and run a target are installed, without importing them.

    Raises:
        MissingPackageError: some are not; the message lists them.
    """
    steps = [ARTIFACTS[name].maker for name in artifact_chain(target.artifact)]
    needed = [package for component in (*steps, target.runtime) for package in component.packages]
    require_packages(*dict.fromkeys((*TORCH, *needed)))


def artifact_chain(name: str) -> list[str]:
    """Return the names of an artifact and of those that it is made from, in the order of making."""
    chain = [name]
    while source := ARTIFACTS[chain[0]].source:
        chain.insert(0, source)
    return chain


def build_steps(artifact: str, options: list[str]) -> dict[str, Any]:
    """Build the export method and conversions of an artifact's chain, by the name of the artifact each makes.

    Args:
        artifact: name of the artifact.
        options: see ``parse_options``.

    Raises:
        ConfigError: see ``parse_options``.
    """
    parsed = parse_options(artifact, options)
    return {name: ARTIFACTS[name].maker.build(**given) for name, given in parsed.items()}


def parse_options(artifact: str, options: list[str]) -> dict[str, dict[str, Any]]:
    """Parse the options of an artifact's chain, by the name of the artifact each step makes, without imports.

    Args:
        artifact: name of the artifact.
        options: ``"name=value"``, for the one step of the chain that has the option, or
            ``"artifact.name=value"``; values are YAML.

    Raises:
        ConfigError: an option has another form, no step or several steps have it, or its value is invalid.
    """
    declared = {name: ARTIFACTS[name].maker.declared_options() for name in artifact_chain(artifact)}
    parsed: dict[str, dict[str, Any]] = {name: {} for name in declared}
    for option in options:
        key, equals, text = option.partition("=")
        owner, _, name = key.rpartition(".")
        takers = [one for one in declared if owner in ("", one) and name in declared[one]]
        if not equals or len(takers) != 1:
            raise _unknown_option(option, artifact, declared)
        parsed[takers[0]][name] = declared[takers[0]][name].parse(text, option)
    return parsed


def _unknown_option(
    option: str, artifact: str, declared: dict[str, dict[str, DeclaredOption]]
) -> ConfigError:
    known = {
        f"{artifact}.{name}": written_value(one.default)
        for artifact, options in declared.items()
        for name, one in options.items()
    }
    key = option.partition("=")[0]
    names = [*known, *(name.partition(".")[2] for name in known)]
    if key in names:
        what = f"several steps of {artifact} have the option" if "=" in option else "an option has no value"
        remedy = f"write {next(name for name in known if name.endswith(key))}=VALUE"
    else:
        what = f"the artifact {artifact} has no such option"
        remedy = did_you_mean(key, names) or "correct the name, or remove the option"
    return ConfigError(
        what,
        got=option,
        expected="NAME=VALUE, one of " + ", ".join(f"{name}={default}" for name, default in known.items()),
        remedy=remedy,
    )
