"""What Hydra computes while it composes ``params.yaml``, and the seal that tells when it is stale.

Free of torch: DVC imports it at every composition.
"""

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from detexport.config.cfg import base_files
from detexport.errors import ConfigError
from detexport.files import is_url, sha256_file, sha256_json

SEAL = "composition"


def register_resolvers() -> None:
    """Make what the functions below compute known to OmegaConf: ``${jobs:}`` and so on."""
    resolvers: dict[str, Callable[..., Any]] = {
        "jobs": jobs,
        "left_out": left_out,
        "exports": exports,
        "conversions": conversions,
        "makers": makers,
        "trainings": trainings,
        "configs": configs,
        "checkpoints": checkpoints,
        "downloads": downloads,
        SEAL: seal,
    }
    for name, resolver in resolvers.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)


def jobs(*, _root_: DictConfig) -> DictConfig:
    """Every selected model with every target that can work: ``{"M-T": {model, target, artifact}}``."""
    pairs: dict[str, dict[str, str]] = {}
    declared = left_out(_root_=_root_)
    for model in _root_.models:
        for target, options in _root_.targets.items():
            if f"{model}-{target}" not in declared:
                pairs[f"{model}-{target}"] = {
                    "model": model,
                    "target": target,
                    "artifact": options.artifact,
                }
    return OmegaConf.create(pairs)


def left_out(*, _root_: DictConfig) -> DictConfig:
    """The selected pairs that were declared not to work: ``{"M-T": {reason, upstream}}``."""
    return OmegaConf.create(
        {
            f"{model}-{target}": {"reason": entry.reason, "upstream": entry.get("upstream", "")}
            for entry in _root_.unsupported
            for model in _root_.models
            for target in _root_.targets
            if _matches(model, entry.models) and _matches(target, entry.targets)
        }
    )


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def exports(*, _root_: DictConfig) -> DictConfig:
    """The artifacts that are made from a model, each once: ``{"M-A": {model, artifact}}``."""
    needed = {
        f"{model}-{name}": {"model": model, "artifact": name}
        for model, name in _needed_artifacts(_root_)
        if "source" not in _root_.artifacts[name]
    }
    return OmegaConf.create(needed)


def conversions(*, _root_: DictConfig) -> DictConfig:
    """The artifacts that are made from another one, each once: ``{"M-A": {model, artifact, source}}``."""
    needed = {
        f"{model}-{name}": {"model": model, "artifact": name, "source": _root_.artifacts[name].source}
        for model, name in _needed_artifacts(_root_)
        if "source" in _root_.artifacts[name]
    }
    return OmegaConf.create(needed)


def makers(*, _root_: DictConfig) -> DictConfig:
    """What makes each job's artifact, the export first: ``{"A": [{name, maker}]}``.

    A stage that needs the options of a whole chain depends on this, and not on those of every artifact.
    """
    artifacts = dict.fromkeys(job.artifact for job in jobs(_root_=_root_).values())
    return OmegaConf.create(
        {
            artifact: [
                {"name": name, "maker": _maker(_root_.artifacts[name])}
                for name in _with_sources(artifact, _root_.artifacts)
            ]
            for artifact in artifacts
        }
    )


def _maker(options: DictConfig) -> DictConfig:
    maker: DictConfig = options.conversion if "source" in options else options.method
    return maker


def _needed_artifacts(root: DictConfig) -> list[tuple[str, str]]:
    """Model and artifact of every job, and what that is converted from, each once."""
    needed: dict[tuple[str, str], None] = {}
    for job in jobs(_root_=root).values():
        for name in _with_sources(job.artifact, root.artifacts):
            needed[job.model, name] = None
    return list(needed)


def _with_sources(name: str, artifacts: DictConfig) -> list[str]:
    """An artifact after those that it is converted from.

    Raises:
        ConfigError: one has no option, or a conversion starts from its own result.
    """
    chain = [name]
    while "source" in (options := _artifact_options(chain[-1], artifacts)):
        if options.source in chain:
            raise ConfigError(
                f"the artifact {name} is converted from itself",
                got=" <- ".join([*chain, options.source]),
                expected="conversions that start from an export",
                remedy="correct conf/artifact/",
            )
        chain.append(options.source)
    return chain[::-1]


def _artifact_options(name: str, artifacts: DictConfig) -> DictConfig:
    if name not in artifacts:
        raise ConfigError(
            "a target or a conversion needs an artifact that is not selected",
            got=name,
            expected=", ".join(artifacts),
            remedy="select it: artifact=[...]",
        )
    options: DictConfig = artifacts[name]
    return options


def trainings(*, _root_: DictConfig) -> DictConfig:
    """The models that ask to be trained: ``{"M": {config_file, weights}}``."""
    asked = {
        name: {"config_file": model.config_file, "weights": model.weights}
        for name, model in _root_.models.items()
        if model.training
    }
    return OmegaConf.create(asked)


def checkpoints(folder: str, *, _root_: DictConfig) -> DictConfig:
    """The file of each model's weights: the given one, or for an address one in ``folder``."""
    return OmegaConf.create(
        {
            name: f"{folder}/{name}" if is_url(weights) else weights
            for name, weights in _given_weights(_root_).items()
        }
    )


def downloads(*, _root_: DictConfig) -> DictConfig:
    """Those of ``checkpoints`` that are to be downloaded."""
    addresses = [name for name, weights in _given_weights(_root_).items() if is_url(weights)]
    return OmegaConf.create({name: _root_.checkpoints[name] for name in addresses})


def _given_weights(root: DictConfig) -> dict[str, str]:
    """Weights by model; those that are left for the user to say are reported elsewhere."""
    return {
        str(name): model.weights
        for name, model in root.models.items()
        if not OmegaConf.is_missing(model, "weights")
    }


def configs(*, _root_: DictConfig) -> DictConfig:
    """Digest of each model's configuration with all its bases: DVC sees no more than the first file."""
    models = OmegaConf.to_container(_root_.models)
    return OmegaConf.create(config_digests(models, Path()))


def config_digests(models: Any, root: Path) -> dict[str, str]:
    """See ``configs``; a model whose file is not there has none, and is reported elsewhere."""
    return {
        name: sha256_json([sha256_file(file) for file in base_files(root / model["config_file"])])
        for name, model in models.items()
        if (root / model["config_file"]).is_file()
    }


def seal(*, _root_: DictConfig) -> str:
    """Digest of the files of ``conf/`` and of the values that were composed from them.

    Raises:
        ConfigError: a value is left for the user to say.
    """
    parts = [key for key in _root_ if key != SEAL]
    missing = sorted(
        set().union(
            *(OmegaConf.missing_keys(_root_[key]) for key in parts if OmegaConf.is_config(_root_[key]))
        )
    )
    if missing:
        raise ConfigError(
            "values are left for you to say",
            got=", ".join(f"{name}: ???" for name in missing),
            expected="a value for each",
            remedy=f"say them: dvc exp run -S {missing[0]}=...",
        )
    if not _root_.models or not _root_.targets:
        raise ConfigError(
            "nothing is selected",
            got=f"model={list(_root_.models)}, export={list(_root_.targets)}",
            expected="at least one model and one target",
            remedy="select them: -S 'model=[...]' -S 'export=[...]'",
        )
    values = {str(key): _plain(_root_[key]) for key in parts}
    check_sources(values, Path())
    return seal_of(values, Path("conf"))


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def check_sources(values: dict[str, Any], root: Path) -> None:
    """Look for the user's data and models before anything is run on them; paths are from ``root``.

    Raises:
        ConfigError: the data's source, a configuration, or the weights of a model that is not trained here,
            do not exist; or weights that are trained here have an address instead of a path.
    """
    models, source = values["models"], values["data"]["source"]
    if not (root / source).exists():
        raise ConfigError(
            "the data set's source is missing",
            got=f"data.source={source}: no such file or folder",
            expected="a path that exists, from the repository's root or absolute",
            remedy="correct data.source",
        )
    for name, model in models.items():
        if model["training"] and is_url(model["weights"]):
            raise ConfigError(
                f"the model {name} is trained here, and its weights are elsewhere",
                got=f"models.{name}.weights={model['weights']}",
                expected="the path of the file that the training writes",
                remedy=f"give a path, or set models.{name}.training=null",
            )
        given = not model["training"] and not is_url(model["weights"])
        for key in ("config_file", "weights") if given else ("config_file",):
            if not (root / model[key]).is_file():
                raise ConfigError(
                    f"a file of the model {name} is missing",
                    got=f"models.{name}.{key}={model[key]}: no such file",
                    expected="a path that exists, from the repository's root or absolute",
                    remedy=f"correct models.{name}.{key}, or put the file there",
                )


def seal_of(values: Any, conf: Path) -> str:
    """Digest of composed values and of the files that they were composed from."""
    files = {path.relative_to(conf).as_posix(): sha256_file(path) for path in sorted(conf.rglob("*.yaml"))}
    return sha256_json({"files": files, "values": values})


def check_composition(params: Path, conf: Path) -> None:
    """Hold ``params.yaml`` against ``conf/`` and the models' files.

    Raises:
        ConfigError: it is not a composition, was edited by hand, or a file that it was composed from changed
            since or is gone.
    """
    try:
        loaded = yaml.safe_load(params.read_text(encoding="utf-8")) if params.is_file() else None
    except yaml.YAMLError:
        loaded = None
    values: dict[str, Any] = loaded if isinstance(loaded, dict) else {}
    sealed = values.pop(SEAL, None)
    if sealed is None or sealed != seal_of(values, conf):
        raise _stale(params, f"{params} is not a composition of {conf}/ as it is now", f"seal {sealed}")
    check_sources(values, params.parent)
    digests = config_digests(values["models"], params.parent)
    changed = sorted(name for name, digest in digests.items() if digest != values["configs"][name])
    if changed:
        raise _stale(
            params, "a model's configuration, or one that it is based on, changed", ", ".join(changed)
        )


def _stale(params: Path, what: str, got: str) -> ConfigError:
    return ConfigError(
        what,
        got=got,
        expected=f"{params} as it was composed from today's files; one of them was edited since",
        remedy="change conf/, or say -S overrides (a hand edit of params.yaml is lost); then compose: "
        "`make params` the defaults, `dvc exp run -S ...` with overrides",
    )
