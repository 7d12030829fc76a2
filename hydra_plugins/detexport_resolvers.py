"""Hydra finds this plug-in by its folder, in DVC as in any Hydra program.

It brings the resolvers of ``conf/``, the config ``artifacts``, which holds the artifacts of all files of
``conf/export``, and errors that list what exists: through DVC, Hydra's own errors end in "unexpected error".
"""

from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from hydra._internal.hydra import Hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from detexport.conf_files import read_targets
from detexport.config.composition import explained, register_resolvers
from detexport.errors import ConfigError
from detexport.model_zoo import get_checkpoint_url, get_class_names
from detexport.model_zoo.zoo import URL_PREFIX

CONF = Path("conf")
ERRORS = (HydraException, OmegaConfBaseException, ConfigError)
"""What a composition raises."""


class CompositionError(ConfigError, DvcException):
    """A ``ConfigError`` that DVC prints as it is."""


def explaining(compose: Callable[..., DictConfig]) -> Callable[..., DictConfig]:
    """Let Hydra's composition raise ``CompositionError``; what the resolvers compute is part of it."""

    @wraps(compose)
    def compose_config(
        self: Hydra, config_name: str | None, overrides: list[str], **options: Any
    ) -> DictConfig:
        def keys() -> Any:
            chosen = [one for one in overrides if (CONF / one.partition("=")[0].lstrip("+")).is_dir()]
            for given in (chosen, []):
                with suppress(*ERRORS):
                    known = compose(self, config_name, given, **options)
                    return OmegaConf.to_container(known, resolve=False)
            return {}  # the error that led here says more than why these do not compose

        try:
            ConfigStore.instance().store("artifacts", read_targets(CONF)["artifacts"], package="artifacts")
            composed = compose(self, config_name, overrides, **options)
            OmegaConf.resolve(OmegaConf.masked_copy(composed, [key for key in composed if key != "hydra"]))
        except ERRORS as error:
            raise CompositionError(str(explained(error, overrides, CONF, keys))) from None
        return composed

    return compose_config


def zoo_weights(config_file: str) -> str:
    """Return the published weights of a configuration of the model zoo, given by its path."""
    name = config_file.rpartition("model_zoo/configs/")[2]
    return f"detectron2://{get_checkpoint_url(name).removeprefix(URL_PREFIX)}"


def zoo_class_names(dataset: str, kind: str) -> ListConfig:
    """Return the names of a data set's things or stuff."""
    return OmegaConf.create(get_class_names(dataset)[kind])


register_resolvers()
OmegaConf.register_new_resolver("zoo_weights", zoo_weights, replace=True)
OmegaConf.register_new_resolver("zoo_class_names", zoo_class_names, replace=True)
if not hasattr(Hydra.compose_config, "__wrapped__"):
    Hydra.compose_config = explaining(Hydra.compose_config)  # type: ignore[method-assign]
