"""What Hydra computes while it composes ``params.yaml``, and the seal that tells when it is stale.

Free of torch: DVC imports it at every composition.
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
"""Names of models, targets and artifacts: they become folders, stages and words of commands."""
DATA_NAME = re.compile(r"\w[\w.-]*")
KINDS = ("things", "stuff", "keypoints")
MOST_SHOWN = 8
"""Options that an error lists, those first that are most like what was given."""


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
            expected=f"one of {_nearest(name, list(map(str, artifacts)))}",
            remedy="select it: artifact=[...]",
        )
    options: DictConfig = artifacts[name]
    return options


def trainings(*, _root_: DictConfig) -> DictConfig:
    """The models that ask to be trained: ``{"M": {config_file, weights, quoted: the same for a shell}}``."""
    asked = {
        name: {
            "config_file": model.config_file,
            "weights": model.weights,
            "quoted": {
                "config_file": shlex.quote(str(model.config_file)),
                "weights": shlex.quote(str(model.weights)),
            },
        }
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
            got=listed(f"{name}: ???" for name in missing),
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
    check_names(values)
    check_sources(values, Path())
    return seal_of(values, Path("conf"))


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def check_names(values: dict[str, Any]) -> None:
    """Check the names that folders and commands are made of, and those of classes.

    Raises:
        ConfigError: a name has other characters than a folder and a command can have everywhere, or a class
            has a name that is not text.
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
                    f"{key} names what no model counts",
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
    except (ValueError, RecursionError, yaml.YAMLError):  # ValueError: no text, or a number too long
        loaded = None
    values: dict[str, Any] = loaded if isinstance(loaded, dict) else {}
    sealed = values.pop(SEAL, None)
    if sealed is None or sealed != seal_of(values, conf):
        raise _stale(
            params, f"{params.name} is not a composition of {conf.name}/ as it is now", f"seal {sealed}"
        )
    check_names(values)
    check_sources(values, params.parent)
    digests = config_digests(values["models"], params.parent)
    changed = sorted(name for name, digest in digests.items() if digest != values["configs"][name])
    if changed:
        raise _stale(params, "a model's configuration, or one that it is based on, changed", listed(changed))


def _stale(params: Path, what: str, got: str) -> ConfigError:
    return ConfigError(
        what,
        got=got,
        expected=f"{params} as it was composed from today's files; one of them was edited since",
        remedy="change conf/, or say -S overrides (a hand edit of params.yaml is lost); then compose: "
        "`make params` the defaults, `dvc exp run -S ...` with overrides",
    )


GROUP_OPTION = re.compile(r"Could not (?:find|load) '([^'/]+)/([^']+)'")
KEY = re.compile(r"Could not override '([^']*)'")


def explained(error: Exception, overrides: Iterable[str], conf: Path, keys: Callable[[], Any]) -> ConfigError:
    """Return what an error of Hydra or OmegaConf says, in terms of ``conf/`` and with what exists.

    Args:
        error: what the composition raised.
        overrides: what was asked for.
        conf: the folder of options.
        keys: composes the values that the selected options have, to look for a key in.
    """
    ours = next((one for one in _chain(error) if isinstance(one, ConfigError)), None)
    if ours is not None:  # raised by a resolver of ours, which says it best
        return ours
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
            expected="key=value; a list is key=[a,b]; text with other characters is in quotes: 'key=\"a b\"'",
            remedy="correct it, and put it into quotes for the shell",
        )
    return ConfigError(
        "conf/ cannot be composed",
        got=text.splitlines()[0] if text else type(error).__name__,
        expected="options that exist under conf/ and keys that they have",
        remedy=f"correct the override or the file that is named; given: {listed(overrides) or 'no override'}",
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
    """All options in words, those first that are most like a name."""
    near = get_close_matches(name[:100], options, n=MOST_SHOWN, cutoff=0.0)
    return listed([*near, *(option for option in options if option not in near)], MOST_SHOWN)


def _unknown_key(key: str, conf: Path, keys: Callable[[], Any]) -> ConfigError:
    """A key that does not exist: the groups and keys that do, nearest first."""
    groups = _groups(conf)
    node = keys()
    siblings, above = node, ""
    for part in key.split(".")[:-1]:
        if not isinstance(siblings, dict) or part not in siblings:
            break
        siblings, above = siblings[part], f"{above}{part}."
    names = [*(() if above else groups), *(map(str, siblings) if isinstance(siblings, dict) else ())]
    known = [f"{above}{name}" for name in dict.fromkeys(names) if not name.startswith("_")]
    meant = did_you_mean(key, known) or did_you_mean(key, [*groups, *_dotted(node)])
    new = f"a new key is added by +{key}=VALUE" if above else ""
    return ConfigError(
        f"conf/ has no key {key!r}",
        got=key,
        expected=f"one of {_nearest(key, known)}" if known else "a key that conf/ has",
        remedy=" ".join(filter(None, (meant or ("" if new else "correct the key"), new))),
    )


def _groups(conf: Path) -> list[str]:
    """The groups of options that the main file selects from."""
    defaults = yaml.safe_load((conf / "config.yaml").read_text(encoding="utf-8"))["defaults"]
    return [str(group) for entry in defaults if isinstance(entry, dict) for group in entry]


def _dotted(node: Any, above: str = "") -> Iterator[str]:
    """The dotted names of all keys of nested dictionaries."""
    if isinstance(node, dict):
        for name, value in node.items():
            if not str(name).startswith("_"):
                yield f"{above}{name}"
            yield from _dotted(value, f"{above}{name}.")
