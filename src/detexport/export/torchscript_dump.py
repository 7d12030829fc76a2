"""TorchScript as readable text."""

from pathlib import Path
from typing import Any

import torch

from detexport.system.atomic import atomic_file


def dump_torchscript_IR(model: Any, dir: str | Path) -> None:  # noqa: N802 - detectron2's name
    """Write the code and the graphs of a traced or scripted module, or scripted function, to a folder.

    ``model_ts_code.txt``: the code of each method; ``model_ts_IR.txt``: the graphs of the module and of its
    submodules; ``model_ts_IR_inlined.txt``: the graph with all calls inlined. Other files are kept.

    Args:
        model: the traced or scripted module or function.
        dir: the folder; created if it does not exist.
    """
    is_module = isinstance(model, torch.jit.ScriptModule)
    modules = list(model.named_modules()) if is_module else [("", model)]
    for file, text in (
        ("model_ts_code.txt", _describe(modules, lambda module: module.code)),
        ("model_ts_IR.txt", _describe(modules, lambda module: module.graph)),
        ("model_ts_IR_inlined.txt", str(model.inlined_graph)),
    ):
        with atomic_file(Path(dir) / file) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _describe(modules: list[tuple[str, Any]], describe: Any) -> str:
    """Return one paragraph per module that has a ``forward``; containers such as lists have none."""
    paragraphs = []
    for name, module in modules:
        if isinstance(module, torch.jit.ScriptModule) and not module._c._has_method("forward"):
            continue
        paragraphs.append(f"# {name or 'the whole'}\n{describe(module)}\n")
    return "\n".join(paragraphs)
