"""The decorator ``configurable``: calls with a configuration or with explicit arguments."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from yacs.config import CfgNode as _YacsNode


def configurable(init_func: Callable[..., Any] | None = None, *, from_config: Any = None) -> Any:
    """Let ``__init__`` or a function accept a configuration in place of its arguments.

    For a class, the class method ``from_config`` translates the configuration into arguments::

        class Head(nn.Module):
            @configurable
            def __init__(self, *, channels: int, classes: int): ...

            @classmethod
            def from_config(cls, cfg, input_shape):
                return {"channels": input_shape.channels, "classes": cfg.MODEL.ROI_HEADS.NUM_CLASSES}

        Head(channels=8, classes=3)         # explicit arguments
        Head(cfg, input_shape)              # a configuration
        Head(cfg, input_shape, classes=7)   # explicit arguments override the configuration

    For a function: ``@configurable(from_config=lambda cfg: {...})``.

    Args:
        init_func: the ``__init__`` or the function.
        from_config: for a function, translates the configuration into arguments.

    Raises:
        TypeError: a class has no class method ``from_config``, or its first argument is not ``cfg``.
    """
    if init_func is None:
        return functools.partial(configurable, from_config=from_config)
    function = init_func

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        bound, given = (args[:1], args[1:]) if from_config is None else ((), args)
        if not _starts_with_cfg(given, kwargs):
            return function(*args, **kwargs)
        translate = from_config or _class_method(type(bound[0]))
        return function(*bound, **_explicit(translate, given, kwargs))

    return wrapped


def _starts_with_cfg(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return isinstance(args[0] if args else kwargs.get("cfg"), _YacsNode)


def _class_method(cls: type) -> Callable[..., dict[str, Any]]:
    method = getattr(cls, "from_config", None)
    if not inspect.ismethod(method):
        raise TypeError(f"{cls.__name__} is configurable and needs a class method from_config(cls, cfg)")
    return method


def _explicit(
    translate: Callable[..., dict[str, Any]], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Return the arguments from ``translate``; keywords that it does not accept override them."""
    parameters = inspect.signature(translate).parameters
    if next(iter(parameters), None) != "cfg":
        raise TypeError(f"{translate.__qualname__} must take cfg as its first argument")
    kinds = {parameter.kind for parameter in parameters.values()}
    if inspect.Parameter.VAR_KEYWORD in kinds or inspect.Parameter.VAR_POSITIONAL in kinds:
        return translate(*args, **kwargs)
    own = {name: value for name, value in kwargs.items() if name in parameters}
    others = {name: value for name, value in kwargs.items() if name not in parameters}
    return {**translate(*args, **own), **others}
