"""TorchScript as text, for people."""

from pathlib import Path
from typing import Any

import torch

from detexport.system.atomic import atomic_file


def dump_torchscript_IR(model: Any, dir: str | Path) -> None:  # noqa: N802 - the name that users know
    """Write what a traced or scripted module, or a scripted function, consists of into a folder.

    ``model_ts_code.txt``: the code of each method; ``model_ts_IR.txt``: the graph of the module and of every
    module in it; ``model_ts_IR_inlined.txt``: its graph with all calls inlined. Other files there stay.

    Args:
        model: the traced or scripted module or function.
        dir: the folder; made if there is none.
    """
    is_module = isinstance(model, torch.jit.ScriptModule)
    modules = list(model.named_modules()) if is_module else [("", model)]
    for file, text in (
        ("model_ts_code.txt", _each(modules, lambda part: part.code)),
        ("model_ts_IR.txt", _each(modules, lambda part: part.graph)),
        ("model_ts_IR_inlined.txt", str(model.inlined_graph)),
    ):
        with atomic_file(Path(dir) / file) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _each(modules: list[tuple[str, Any]], describe: Any) -> str:
    """A paragraph a module that has a ``forward``; containers such as lists have none."""
    parts = []
    for name, part in modules:
        if isinstance(part, torch.jit.ScriptModule) and not part._c._has_method("forward"):
            continue
        parts.append(f"# {name or 'the whole'}\n{describe(part)}\n")
    return "\n".join(parts)
