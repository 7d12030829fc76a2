"""Build: a configuration -> resolved, with the I/O contract and the parameters' names and shapes."""

from pathlib import Path
from typing import Annotated, Any

from omegaconf import OmegaConf
from typer import Option

from detexport.checkpoint.load import model_shapes
from detexport.config.cfg import load_cfg
from detexport.errors import ConfigError
from detexport.files import atomic_dir, read_json, write_json
from detexport.modeling import build_model
from detexport.parity.detections import DTYPES
from stage import load_params, run


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
    incomparable = [name for name in net.contract(()).output_names if name not in DTYPES]
    if incomparable:
        raise ConfigError(
            f"the stages cannot compare what the model {model} gives",
            got=f"MODEL.META_ARCHITECTURE: {cfg.MODEL.META_ARCHITECTURE} with {', '.join(incomparable)}",
            expected=f"a model of {', '.join(DTYPES)} alone",
            remedy="export it in Python: an export method takes the model and its contract",
        )
    contract = net.contract(class_names(net.num_classes, model, params.class_names, dataset))
    with atomic_dir(save_dir) as folder:
        (folder / "config.yaml").write_text(cfg.dump(), encoding="utf-8")
        write_json(folder / "contract.json", contract.to_json())
        write_json(folder / "parameters.json", model_shapes(net))


def class_names(expected: int, model: str, given: list[str] | None, dataset: Path) -> tuple[str, ...]:
    """EXPECTED names: the model's option, else the categories asked of the data set, else all of it.

    Raises:
        ConfigError: there are more or fewer names than the model has classes.
    """
    names = given or load_params("data.categories") or read_json(dataset)["things"]
    if len(names) != expected:
        raise ConfigError(
            f"the model {model} and the class names do not fit",
            got=f"{len(names)} names: {', '.join(list(names)[:5])}{', ...' if len(names) > 5 else ''}",
            expected=f"{expected}, as many as the model has",
            remedy=f"give the names of its classes: -S 'models.{model}.class_names=[...]'",
        )
    return tuple(names)


if __name__ == "__main__":
    run(main)
