"""Build a model: a configuration -> resolved, with the I/O contract and the parameters' names and shapes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detexport.checkpoint.load import describe_parameters
from detexport.config.cfg import load_cfg, naming_sources
from detexport.config.valid_values import check_exportable
from detexport.contract import Contract
from detexport.modeling import build_model
from detexport.modeling.class_names import count_classes, named_contract
from detexport.modeling.meta_arch.instances_model import exportable
from detexport.system.atomic import atomic_dir
from detexport.system.files import write_json
from detexport.workflows.fine_tuning import fit_classes
from detexport.workflows.model_folder import CONFIG, CONTRACT, PARAMETERS

ClassNames = Mapping[str, Any] | Sequence[str] | None


def build(
    name: str,
    config_file: Path,
    save_dir: Path,
    *,
    overrides: Mapping[str, Any],
    class_names: ClassNames,
    dataset: Mapping[str, Any],
    categories: Sequence[str] | None = None,
    fine_tuned: bool = False,
) -> Contract:
    """Build a model without weights, and write its resolved configuration, contract and parameters.

    Args:
        name: of the model in the project's parameters, for messages.
        config_file: its configuration.
        save_dir: folder of the resolved configuration, the contract, and the parameters.
        overrides: a tree of keys that override the configuration.
        class_names: names by kind (``things`` are the classes of instances, ``stuff`` those of pixels, of
            which the first stands for all things, ``keypoints`` may have none), or a list of the names of the
            things, of the pixels' in a model without things. ``dataset`` names the kinds that are left out.
        dataset: the data set's ``dataset.json``.
        categories: names of the things in place of the data set's.
        fine_tuned: whether the model is trained for the data set's classes: see ``fit_classes``.

    Raises:
        ConfigError: a key or a value does not fit, or the names do not: see ``named_contract``.
    """
    cfg = load_cfg(config_file)
    cfg.merge_from_tree(dict(overrides), source=f"models.{name}.config")
    if fine_tuned:
        fit_classes(cfg, dataset, categories)
    # Artifacts are exported on the CPU, whatever device the model was trained on.
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    with naming_sources(cfg):
        check_exportable(cfg)
    net = build_model(cfg)
    known = {
        "things": categories or dataset["things"],
        "stuff": ["things", *dataset.get("stuff", ())],
        "keypoints": dataset.get("keypoints", ()),
    }
    exported = exportable(net, cfg)
    kinds = list(count_classes(exported))
    contract = named_contract(
        exported,
        {kind: known[kind] for kind in kinds} | _by_kind(class_names, kinds),
        keypoint_sigmas=tuple(cfg.TEST.KEYPOINT_OKS_SIGMAS),
        what=f"the model {name}",
        remedy=f"give the names of its classes: -S 'models.{name}.class_names={{{{{{kind}}: [...]}}}}'",
    )
    with atomic_dir(save_dir) as folder:
        (folder / CONFIG).write_text(cfg.dump(), encoding="utf-8")
        write_json(folder / CONTRACT, contract.to_json())
        write_json(folder / PARAMETERS, describe_parameters(net))
    return contract


def _by_kind(class_names: ClassNames, kinds: Sequence[str]) -> dict[str, Any]:
    """Return names by kind; a list names the model's first kind."""
    if class_names is None:
        return {}
    return (
        dict(class_names)
        if isinstance(class_names, Mapping)
        else {kinds[0] if kinds else "things": class_names}
    )
