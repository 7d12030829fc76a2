"""Hydra finds this plug-in by its folder, in DVC as in any Hydra program.

It brings our resolvers, and makes a composition that fails say what exists: through DVC, Hydra's own errors
end in "unexpected error".
"""

from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from hydra._internal.hydra import Hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from detexport.config.composition import explained, register_resolvers
from detexport.errors import ConfigError

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
            composed = compose(self, config_name, overrides, **options)
            OmegaConf.resolve(OmegaConf.masked_copy(composed, [key for key in composed if key != "hydra"]))
        except ERRORS as error:
            raise CompositionError(str(explained(error, overrides, CONF, keys))) from None
        return composed

    return compose_config


register_resolvers()
if not hasattr(Hydra.compose_config, "__wrapped__"):
    Hydra.compose_config = explaining(Hydra.compose_config)  # type: ignore[method-assign]
