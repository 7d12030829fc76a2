"""What Hydra computes while it composes ``params.yaml``, and the seal that tells when it is stale.

Free of torch: DVC imports it at every composition.
"""

import hashlib
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from detexport.errors import ConfigError
from detexport.files import sha256_json

SEAL = "composition"


def register_resolvers() -> None:
    """Make ``${jobs:}``, ``${exports:}``, ``${trainings:}`` and ``${composition:}`` known to OmegaConf."""
    for name, resolver in {
        "jobs": jobs,
        "exports": exports,
        "trainings": trainings,
        SEAL: seal,
    }.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)


def jobs(*, _root_: DictConfig) -> DictConfig:
    """Every selected model with every selected target: ``{"M-T": {model, target, artifact}}``.

    Raises:
        ConfigError: a target names an artifact that there is no option for.
    """
    pairs: dict[str, dict[str, str]] = {}
    for model in _root_.models:
        for target, options in _root_.targets.items():
            if options.artifact not in _root_.artifacts:
                raise ConfigError(
                    f"the target {target} needs an artifact that is not selected",
                    got=options.artifact,
                    expected=", ".join(_root_.artifacts),
                    remedy="select it: artifact=[...]",
                )
            pairs[f"{model}-{target}"] = {"model": model, "target": target, "artifact": options.artifact}
    return OmegaConf.create(pairs)


def exports(*, _root_: DictConfig) -> DictConfig:
    """The artifacts that the jobs need, each once: ``{"M-A": {model, artifact}}``."""
    needed = {
        f"{job.model}-{job.artifact}": {"model": job.model, "artifact": job.artifact}
        for job in jobs(_root_=_root_).values()
    }
    return OmegaConf.create(needed)


def trainings(*, _root_: DictConfig) -> DictConfig:
    """The models that ask to be trained: ``{"M": {config_file, weights}}``."""
    asked = {
        name: {"config_file": model.config_file, "weights": model.weights}
        for name, model in _root_.models.items()
        if model.training
    }
    return OmegaConf.create(asked)


def seal(*, _root_: DictConfig) -> str:
    """Digest of the files of ``conf/`` and of the values that were composed from them.

    Raises:
        ConfigError: a value is left for the user to say.
    """
    parts = [key for key in _root_ if key != SEAL]
    missing = sorted(set().union(*(OmegaConf.missing_keys(_root_[key]) for key in parts)))
    if missing:
        raise ConfigError(
            "values are left for you to say",
            got=", ".join(f"{name}: ???" for name in missing),
            expected="a value for each",
            remedy=f"say them: dvc exp run -S {missing[0]}=...",
        )
    values: dict[str, Any] = {str(key): OmegaConf.to_container(_root_[key], resolve=True) for key in parts}
    check_model_files(values["models"], Path())
    return seal_of(values, Path("conf"))


def check_model_files(models: dict[str, Any], root: Path) -> None:
    """Look for the files that come with the models, before anything is run on them; paths are from ``root``.

    Raises:
        ConfigError: a configuration, or the weights of a model that is not trained here, do not exist.
    """
    for name, model in models.items():
        for key in ("config_file",) if model["training"] else ("config_file", "weights"):
            if not (root / model[key]).is_file():
                raise ConfigError(
                    f"a file of the model {name} is missing",
                    got=f"models.{name}.{key}={model[key]}: no such file",
                    expected="a path that exists, from the repository's root or absolute",
                    remedy=f"correct models.{name}.{key}, or put the file there",
                )


def seal_of(values: Any, conf: Path) -> str:
    """Digest of composed values and of the files that they were composed from."""
    files = {
        path.relative_to(conf).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(conf.rglob("*.yaml"))
    }
    return sha256_json({"files": files, "values": values})


def check_composition(params: Path, conf: Path) -> None:
    """Hold ``params.yaml`` against ``conf/``.

    Raises:
        ConfigError: it was edited by hand, ``conf/`` changed since, or a model's file is gone.
    """
    values = yaml.safe_load(params.read_text(encoding="utf-8")) if params.is_file() else {}
    sealed = values.pop(SEAL, None)
    check_model_files(values.get("models", {}), params.parent)
    if sealed != seal_of(values, conf):
        raise ConfigError(
            f"{params} is not a composition of {conf}/ as it is now",
            got=f"seal {sealed}",
            expected="the seal of today's files and values; one of them was edited since it was composed",
            remedy="`make params` composes the defaults; `dvc exp run -S ...` composes with your overrides",
        )
