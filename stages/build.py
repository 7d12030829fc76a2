"""Build: a configuration -> resolved, with the I/O contract and the parameters' names and shapes."""

from pathlib import Path
from typing import Annotated, Any

from omegaconf import OmegaConf
from typer import Option

from detexport.checkpoint.load import describe_parameters
from detexport.config.cfg import load_cfg
from detexport.config.params import load_params
from detexport.contract import Contract
from detexport.modeling import build_model
from detexport.modeling.class_names import count_classes, named_contract
from detexport.system.atomic import atomic_dir
from detexport.system.files import read_json, write_json
from detexport.system.script import run


def main(
    model: Annotated[str, Option()],
    dataset: Annotated[Path, Option()],
    save_dir: Annotated[Path, Option()],
) -> None:
    """Write MODEL's configuration and what follows from it into SAVE_DIR; DATASET names the classes."""
    params = load_params(f"models.{model}")
    cfg = load_cfg(Path(params.config_file))
    overrides: Any = OmegaConf.to_container(params.config)
    cfg.merge_from_tree(overrides, source=f"models.{model}.config")
    # Artifacts are made on the CPU wherever the model was trained; weights come from their own stage.
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    net = build_model(cfg)
    sigmas = tuple(cfg.TEST.KEYPOINT_OKS_SIGMAS)
    contract = name_classes(net, model, params.class_names, read_json(dataset), sigmas)
    with atomic_dir(save_dir) as folder:
        (folder / "config.yaml").write_text(cfg.dump(), encoding="utf-8")
        write_json(folder / "contract.json", contract.to_json())
        write_json(folder / "parameters.json", describe_parameters(net))


def name_classes(
    net: Any, model: str, given: Any, dataset: dict[str, Any], sigmas: tuple[float, ...]
) -> Contract:
    """The contract of NET with names for what its outputs count.

    ``things`` are the classes of instances, ``stuff`` those of pixels, of which the first stands for all
    things, and ``keypoints`` may be without names. GIVEN, the model's option ``class_names``, maps these
    words to names, or is a list of the things' (of the pixels' in a model without things); what it does not
    say, DATASET does. SIGMAS are those of the keypoints.

    Raises:
        ConfigError: see ``named_contract``.
    """
    counts = count_classes(net)
    names = {
        "things": load_params("data.categories") or dataset["things"],
        "stuff": ["things", *dataset.get("stuff", ())],
        "keypoints": dataset.get("keypoints", ()),
    }
    names = {kind: names[kind] for kind in counts} | as_mapping(given, next(iter(counts), "things"))
    remedy = f"give the names of its classes: -S 'models.{model}.class_names={{{{{{kind}}: [...]}}}}'"
    return named_contract(net, names, keypoint_sigmas=sigmas, what=f"the model {model}", remedy=remedy)


def as_mapping(given: Any, kind: str) -> dict[str, list[str]]:
    """The option ``class_names``; a list of names is of KIND."""
    value: Any = OmegaConf.to_container(given) if OmegaConf.is_config(given) else given
    return dict(value) if isinstance(value, dict) else {} if value is None else {kind: value}


if __name__ == "__main__":
    run(main)
