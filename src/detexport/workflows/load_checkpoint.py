"""Load a checkpoint: any supported file, checked against the built model -> safetensors and a load report."""

from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from torch import Tensor

from detexport.checkpoint import LoadReport, match_weights, read_state_dict, write_state_dict
from detexport.config.cfg import load_cfg
from detexport.modeling import build_model
from detexport.system.atomic import atomic_dir
from detexport.system.digests import sha256_file
from detexport.system.files import read_json, write_json
from detexport.workflows.loaded_model import SEED
from detexport.workflows.model_folder import CONFIG, LOAD_REPORT, PARAMETERS, WEIGHTS


def load_checkpoint(
    checkpoint: Path,
    build: Path,
    save_dir: Path,
    *,
    source: str,
    new_parameters: Sequence[str] = (),
    option: str = "new_parameters",
) -> LoadReport:
    """Match a checkpoint with the parameters of a built model, and write the weights and a load report.

    Args:
        checkpoint: the file.
        build: folder that ``build`` wrote.
        save_dir: folder of the weights and the load report.
        source: names the checkpoint in the report and in messages.
        new_parameters: patterns of parameters that the checkpoint may lack or hold in another shape; they
            keep their seeded initial values.
        option: name of the option for ``new_parameters``, for messages.

    Raises:
        CheckpointError: the file is not a checkpoint, or does not fit the model.
    """
    fitting, report = match_weights(
        read_state_dict(checkpoint),
        **read_json(build / PARAMETERS),
        new_parameters=list(new_parameters),
        option=option,
    )
    report.raise_if_incomplete(source, option=option)
    with atomic_dir(save_dir) as folder:
        write_state_dict({**_initial_values(build, report.new_keys), **fitting}, folder / WEIGHTS)
        origin = {"file": source, "sha256": sha256_file(checkpoint)}
        write_json(folder / LOAD_REPORT, {"source": origin, **report.to_json()})
    return report


def _initial_values(build: Path, names: Collection[str]) -> dict[str, Tensor]:
    if not names:
        return {}
    torch.manual_seed(SEED)
    state = build_model(load_cfg(build / CONFIG)).state_dict()
    return {name: state[name] for name in names}
