"""OmegaConf resolvers for the composition of ``params.yaml``, and the seal that shows whether it is stale.

It does not import torch, since DVC imports it at each composition.
"""

import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from detexport.config.cfg import base_files
from detexport.contract import checked_names
from detexport.errors import ConfigError, did_you_mean, listed
from detexport.system.digests import sha256_file, sha256_json
from detexport.system.files import is_url

SEAL = "composition"
NAME = re.compile(r"\w[\w-]*")
"""Pattern of the names of models, targets and artifacts, which appear in folders, stages and commands."""
DATA_NAME = re.compile(r"\w[\w.-]*")
MISSING = "???"
KINDS = ("things", "stuff", "keypoints")
DIGITS = 12
"""Hex digits of the digests in params.yaml: `dvc exp diff` shows the old and the new one in one line."""
COPIES = ("trainings", "fine_tuned")
"""Sections that repeat values of the models."""
MOST_SHOWN = 8
"""Maximum number of options listed in an error, the most similar ones first."""


def register_resolvers() -> None:
    """Register the functions below as OmegaConf resolvers: ``${jobs:}`` and so on."""
    for name, resolver in resolvers().items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)
    OmegaConf.register_new_resolver("default", default_value, replace=True)


def resolvers() -> dict[str, Callable[..., Any]]:
    """Return the functions that compute sections of ``params.yaml`` from the others, by section."""
    return {
        "jobs": jobs,
        "left_out": left_out,
        "exports": exports,
        "conversions": conversions,
        "export_steps": export_steps,
        "trainings": trainings,
        "fine_tuned": fine_tuned,
        "fine_tunings": fine_tunings,
        "config_beside": config_beside,
        "trained_weights": trained_weights,
        "configs": configs,
        "checkpoints": checkpoints,
        "downloads": downloads,
        SEAL: seal,
    }


def default_value(file: str, key: str) -> Any:
    """Return the value of a key in a file of ``conf/``, whatever its overrides."""
    # Hydra takes no plain list from a resolver.
    values: Any = OmegaConf.load(Path("conf", f"{file}.yaml"))
    return values[key]


def jobs(*, _root_: DictConfig) -> DictConfig:
    """Return the jobs, all supported pairs of the selected models and targets.

    Returns:
        ``{"M-T": {model, target, artifact}}``.
    """
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
    """Return the selected pairs that are declared unsupported: ``{"M-T": {reason, upstream}}``."""
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
    """Return the artifacts exported from models, each once: ``{"M-A": {model, artifact}}``."""
    needed = {
        f"{model}-{name}": {"model": model, "artifact": name}
        for model, name in _needed_artifacts(_root_)
        if "source" not in _root_.artifacts[name]
    }
    return OmegaConf.create(needed)


def conversions(*, _root_: DictConfig) -> DictConfig:
    """Return the artifacts converted from others, each once: ``{"M-A": {model, artifact, source}}``."""
    needed = {
        f"{model}-{name}": {"model": model, "artifact": name, "source": _root_.artifacts[name].source}
        for model, name in _needed_artifacts(_root_)
        if "source" in _root_.artifacts[name]
    }
    return OmegaConf.create(needed)


def export_steps(*, _root_: DictConfig) -> DictConfig:
    """Return the export and the conversions of each job's artifact, in order: ``{"A": {name: maker}}``.

    A stage that depends on the options of a whole chain depends on this entry, not on all artifacts.
    """
    artifacts = dict.fromkeys(job.artifact for job in jobs(_root_=_root_).values())
    return OmegaConf.create(
        {
            artifact: {
                name: _maker(_root_.artifacts[name]) for name in _with_sources(artifact, _root_.artifacts)
            }
            for artifact in artifacts
        }
    )


def _maker(options: DictConfig) -> DictConfig:
    maker: DictConfig = options.conversion if "source" in options else options.method
    return maker


def _needed_artifacts(root: DictConfig) -> list[tuple[str, str]]:
    """Return model and artifact of each job and of the sources of its conversions, each once."""
    needed: dict[tuple[str, str], None] = {}
    for job in jobs(_root_=root).values():
        for name in _with_sources(job.artifact, root.artifacts):
            needed[job.model, name] = None
    return list(needed)


def _with_sources(name: str, artifacts: DictConfig) -> list[str]:
    """Return the sources of an artifact's conversions, from the export on, and the artifact itself.

    Raises:
        ConfigError: an artifact is not selected, or the conversions form a cycle.
    """
    chain = [name]
    while "source" in (options := _artifact_options(chain[-1], artifacts)):
        if options.source in chain:
            raise ConfigError(
                f"the artifact {name} is converted from itself",
                got=" <- ".join([*chain, options.source]),
                expected="conversions that start from an export",
                remedy="correct conf/export/",
            )
        chain.append(options.source)
    return chain[::-1]


def _artifact_options(name: str, artifacts: DictConfig) -> DictConfig:
    if name not in artifacts:
        raise ConfigError(
            "a target or a conversion needs an artifact that no file of conf/export/ defines",
            got=name,
            expected=f"one of {_nearest(name, list(map(str, artifacts)))}",
            remedy="correct the name, or define it",
        )
    options: DictConfig = artifacts[name]
    return options


def trainings(*, _root_: DictConfig) -> DictConfig:
    """Return the models to train from random weights.

    Returns:
        ``{"M": {config_file, weights, quoted: the same for a shell}}``.
    """
    return _trainings(_root_, from_checkpoint=False)


def fine_tuned(*, _root_: DictConfig) -> DictConfig:
    """Return the models to train from a checkpoint, as ``trainings`` does."""
    return _trainings(_root_, from_checkpoint=True)


def _trainings(root: DictConfig, *, from_checkpoint: bool) -> DictConfig:
    selected = {
        name: {
            "config_file": model["config_file"],
            "weights": model["weights"],
            "quoted": {key: shlex.quote(str(model[key])) for key in ("config_file", "weights")},
        }
        # As plain values, among which ``seal`` reports those that are not set (``???``).
        for name, model in _plain(root.models).items()
        if is_trained(model) and ("from" in model["training"]) == from_checkpoint
    }
    return OmegaConf.create(selected)


def is_trained(model: Any) -> bool:
    """Return whether the pipeline trains a model: with ``training.from``, if that names a checkpoint."""
    training = model["training"]
    return bool(training) and ("from" not in training or training["from"] is not None)


def fine_tunings(*, _root_: DictConfig) -> DictConfig:
    """Return the checkpoint that the training of each model starts from, or null: see ``starts_of``."""
    return OmegaConf.create(starts_of(_plain(_root_.models), Path()))


def starts_of(models: Any, root: Path) -> dict[str, Any]:
    """Return what the training of each model starts from: ``{checkpoint, sha256, config, new_parameters}``.

    It is None for a model that starts from random weights or is not trained. The digest is empty for a URL
    and for a missing file, which ``check_sources`` reports.
    """
    return {name: _start(model, root) for name, model in models.items()}


def _start(model: dict[str, Any], root: Path) -> dict[str, Any] | None:
    checkpoint = (model["training"] or {}).get("from")
    if checkpoint is None:
        return None
    readable = not is_url(checkpoint) and (root / checkpoint).is_file()
    return {
        "checkpoint": checkpoint,
        "sha256": sha256_file(root / checkpoint)[:DIGITS] if readable else "",
        "config": model["config"],
        "new_parameters": model["new_parameters"],
    }


def config_beside(checkpoint: str | None) -> str:
    """Return the configuration of a checkpoint to fine-tune: ``config.yaml`` beside it, as detectron2 writes.

    Without such a file, the user must set ``config_file`` (``???``).
    """
    if checkpoint is None or is_url(checkpoint):
        return MISSING
    return str(Path(checkpoint).with_name("config.yaml"))


def trained_weights(model: str, checkpoint: str | None) -> str:
    """Return the file of the weights of a fine-tuned model; of another, the user must set ``weights``."""
    return MISSING if checkpoint is None else f"checkpoints/{model}.safetensors"


def checkpoints(folder: str, *, _root_: DictConfig) -> DictConfig:
    """Return the file of each model's weights: the given path, or for a URL a path in ``folder``."""
    return OmegaConf.create(
        {
            name: f"{folder}/{name}" if is_url(weights) else weights
            for name, weights in _given_weights(_root_).items()
        }
    )


def downloads(*, _root_: DictConfig) -> DictConfig:
    """Return the files of ``checkpoints`` that are downloaded."""
    urls = [name for name, weights in _given_weights(_root_).items() if is_url(weights)]
    return OmegaConf.create({name: _root_.checkpoints[name] for name in urls})


def _given_weights(root: DictConfig) -> dict[str, str]:
    """Return the weights by model; ``seal`` reports those that are not set (``???``)."""
    models = _plain(root.models)
    return {name: model["weights"] for name, model in models.items() if model["weights"] != MISSING}


def configs(*, _root_: DictConfig) -> DictConfig:
    """Return the digest of each model's configuration with all its bases; DVC tracks the first file only."""
    return OmegaConf.create(config_digests(_plain(_root_.models), Path()))


def config_digests(models: Any, root: Path) -> dict[str, str]:
    """Return the digests of ``configs``; ``check_sources`` reports models without a file."""
    return {
        name: sha256_json([sha256_file(file) for file in base_files(root / model["config_file"])])[:DIGITS]
        for name, model in models.items()
        if (root / model["config_file"]).is_file()
    }


def seal(*, _root_: DictConfig) -> str:
    """Return the digest of the files of ``conf/`` and of the values composed from them.

    Raises:
        ConfigError: the user must set a value (``???``), no job is selected, or a name or path is invalid.
    """
    keys = [key for key in _root_ if key != SEAL]
    values = {str(key): _plain(_root_[key]) for key in keys}
    own = {name: value for name, value in values.items() if name not in COPIES}
    missing = sorted(OmegaConf.missing_keys(OmegaConf.create(own)))
    if missing:
        raise ConfigError(
            "values are not set",
            got=listed(f"{name}: ???" for name in missing),
            expected="a value for each",
            remedy=f"set them: dvc exp run -S {missing[0]}=...",
        )
    if not _root_.models or not _root_.targets:
        raise ConfigError(
            "nothing is selected",
            got=f"model={list(_root_.models)}, export={list(_root_.targets)}",
            expected="at least one model and one target",
            remedy="select them: -S 'model=[...]' -S 'export=[...]'",
        )
    check_names(values)
    check_sources(values, Path())
    return seal_of(values, Path("conf"))


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def check_names(values: dict[str, Any]) -> None:
    """Check the names that appear in folders and commands, and the names of classes.

    Raises:
        ConfigError: a name has characters that are not safe in folders and commands, or the name of a class
            is not a string.
    """
    for group in ("models", "targets", "artifacts"):
        for name in values[group]:
            _check_name(str(name), f"a name in {group}", NAME, "letters, digits, - and _")
    _check_name(str(values["data"]["name"]), "data.name", DATA_NAME, "letters, digits, -, _ and .")
    _check_class_names(values["data"]["categories"], "data.categories")
    for name, model in values["models"].items():
        key, names = f"models.{name}.class_names", model["class_names"]
        if not isinstance(names, dict):
            _check_class_names(names, key)
            continue
        for kind, given in names.items():
            if kind not in KINDS:
                raise ConfigError(
                    f"{key} has an unknown kind of classes",
                    got=kind,
                    expected=f"one of {', '.join(KINDS)}",
                    remedy=did_you_mean(kind, KINDS) or "choose one",
                )
            _check_class_names(given, f"{key}.{kind}")


def _check_name(name: str, what: str, pattern: re.Pattern[str], expected: str) -> None:
    if not pattern.fullmatch(name):
        raise ConfigError(
            f"{what} cannot be the name of a folder and a word of a command",
            got=repr(name),
            expected=expected,
            remedy="choose another name; paths may have any characters",
        )


def _check_class_names(names: Any, key: str) -> None:
    if names is not None:
        checked_names(names, key)


def check_sources(values: dict[str, Any], root: Path) -> None:
    """Check that the user's data and models exist; paths are relative to ``root``.

    Raises:
        ConfigError: the data source, a configuration, or the weights of a model that is not trained do not
            exist; or the weights of a model to train are a URL instead of a path.
    """
    models, source = values["models"], values["data"]["source"]
    if not (root / source).exists():
        raise ConfigError(
            "the source of the data set is missing",
            got=f"data.source={source}: no such file or folder",
            expected="an existing path, absolute or relative to the repository",
            remedy="correct data.source",
        )
    for name, model in models.items():
        if is_trained(model) and is_url(model["weights"]):
            raise ConfigError(
                f"the model {name} is to be trained, but its weights are a URL",
                got=f"models.{name}.weights={model['weights']}",
                expected="the path of the file that the training writes",
                remedy=f"give a path, or set models.{name}.training=null",
            )
        files = {"config_file": model["config_file"]}
        if not is_trained(model) and not is_url(model["weights"]):
            files["weights"] = model["weights"]
        start = _start(model, root)
        if start and not is_url(start["checkpoint"]):
            files["training.from"] = start["checkpoint"]
        for key, file in files.items():
            if not (root / file).is_file():
                raise ConfigError(
                    f"a file of the model {name} is missing",
                    got=f"models.{name}.{key}={file}: no such file",
                    expected="an existing path, absolute or relative to the repository",
                    remedy=f"correct models.{name}.{key}, or put the file there",
                )


def seal_of(values: Any, conf: Path) -> str:
    """Return the digest of composed values and of the files that they were composed from."""
    files = {path.relative_to(conf).as_posix(): sha256_file(path) for path in sorted(conf.rglob("*.yaml"))}
    return sha256_json({"files": files, "values": values})[:DIGITS]


def check_composition(params: Path, conf: Path) -> None:
    """Check that ``params.yaml`` is a composition of the current ``conf/`` and the models' files.

    Raises:
        ConfigError: it is not a composition, was edited by hand, or a file that it was composed from has
            changed or is missing.
    """
    try:
        loaded = yaml.safe_load(params.read_text(encoding="utf-8")) if params.is_file() else None
    except (ValueError, RecursionError, yaml.YAMLError):  # ValueError: not UTF-8, or too many digits
        loaded = None
    values: dict[str, Any] = loaded if isinstance(loaded, dict) else {}
    sealed = values.pop(SEAL, None)
    if sealed is None or sealed != seal_of(values, conf):
        since = f"the file was edited, or {conf.name}/ changed after it was composed"
        raise _stale(
            params,
            f"{params.name} is not a composition of the current {conf.name}/",
            "no composition digest" if sealed is None else f"composition digest {sealed}: {since}",
        )
    check_names(values)
    check_sources(values, params.parent)
    digests = config_digests(values["models"], params.parent)
    changed = sorted(name for name, digest in digests.items() if digest != values["configs"][name])
    if changed:
        raise _stale(params, "a model's configuration or one of its bases has changed", listed(changed))
    starts = starts_of(values["models"], params.parent)
    changed = sorted(name for name, start in starts.items() if start != values["fine_tunings"][name])
    if changed:
        raise _stale(params, "a checkpoint that a training starts from has changed", listed(changed))


def _stale(params: Path, what: str, got: str) -> ConfigError:
    return ConfigError(
        what,
        got=got,
        expected=f"{params} as composed from the current files",
        remedy="edit conf/, not params.yaml, then compose it: `make params` with the defaults, or "
        "`dvc exp run -S ...` with overrides",
    )


GROUP_OPTION = re.compile(r"Could not (?:find|load) '([^'/]+)/([^']+)'")
KEY = re.compile(r"Could not override '([^']*)'")


def explained(error: Exception, overrides: Iterable[str], conf: Path, keys: Callable[[], Any]) -> ConfigError:
    """Translate an error of Hydra or OmegaConf into a ConfigError that lists existing options and keys.

    Args:
        error: raised by the composition.
        overrides: of the composition.
        conf: the folder of options.
        keys: composes the values of the selected options, to look up a key.
    """
    own = next((one for one in _chain(error) if isinstance(one, ConfigError)), None)
    if own is not None:  # raised by one of the resolvers above
        return own
    text = str(error).strip()
    if option := GROUP_OPTION.search(text):
        return _unknown_option(option[1], option[2], conf)
    if key := KEY.search(text):
        return _unknown_key(key[1], conf, keys)
    override = getattr(error, "override", None)
    if override is not None:
        return ConfigError(
            "an override cannot be read",
            got=f"{override!r}: {text.splitlines()[0] if text else ''}",
            expected="key=value; lists: key=[a,b]; strings with other characters in quotes: 'key=\"a b\"'",
            remedy="correct it, and quote it for the shell",
        )
    return ConfigError(
        "conf/ cannot be composed",
        got=text.splitlines()[0] if text else type(error).__name__,
        expected="options in conf/ and keys of these options",
        remedy=f"correct the override or the file; the overrides are: {listed(overrides) or 'none'}",
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _unknown_option(group: str, name: str, conf: Path) -> ConfigError:
    options = sorted(path.stem for path in (conf / group).glob("*.yaml"))
    return ConfigError(
        f"conf/{group}/ has no option {name!r}",
        got=f"{group}={name}",
        expected=f"one of {_nearest(name, options)}",
        remedy=did_you_mean(name, options) or f"choose one of conf/{group}/",
    )


def _nearest(name: str, options: list[str]) -> str:
    """List options for an error, the most similar to a name first."""
    near = get_close_matches(name[:100], options, n=MOST_SHOWN, cutoff=0.0)
    return listed([*near, *(option for option in options if option not in near)], MOST_SHOWN)


def _unknown_key(key: str, conf: Path, keys: Callable[[], Any]) -> ConfigError:
    """Return the error for an unknown key, with existing groups and keys, nearest first."""
    groups = _groups(conf)
    node = keys()
    siblings, prefix = node, ""
    for part in key.split(".")[:-1]:
        if not isinstance(siblings, dict) or part not in siblings:
            break
        siblings, prefix = siblings[part], f"{prefix}{part}."
    names = [*(() if prefix else groups), *(map(str, siblings) if isinstance(siblings, dict) else ())]
    known = [f"{prefix}{name}" for name in dict.fromkeys(names) if not name.startswith("_")]
    meant = did_you_mean(key, known) or did_you_mean(key, [*groups, *_dotted(node)])
    new = f"a new key is added by +{key}=VALUE" if prefix else ""
    return ConfigError(
        f"conf/ has no key {key!r}",
        got=key,
        expected=f"one of {_nearest(key, known)}" if known else "a key of conf/",
        remedy=" ".join(filter(None, (meant or ("" if new else "correct the key"), new))),
    )


def _groups(conf: Path) -> list[str]:
    """Return the groups of options that the main file selects from."""
    defaults = yaml.safe_load((conf / "config.yaml").read_text(encoding="utf-8"))["defaults"]
    return [str(group) for entry in defaults if isinstance(entry, dict) for group in entry]


def _dotted(node: Any, prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of all keys of nested dictionaries."""
    if isinstance(node, dict):
        for name, value in node.items():
            if not str(name).startswith("_"):
                yield f"{prefix}{name}"
            yield from _dotted(value, f"{prefix}{name}.")
