"""Data sets and what is known of them, by name."""

from collections.abc import Callable
from typing import Any

from detexport.errors import DataError

Records = list[dict[str, Any]]


class _DatasetCatalog:
    """Functions that read data sets, by name; see ``detexport.data.datasets`` for what they give."""

    def __init__(self) -> None:
        self._functions: dict[str, Callable[[], Records]] = {}

    def register(self, name: str, func: Callable[[], Records]) -> None:
        """Name a data set.

        Args:
            name: not taken yet.
            func: reads the data set; gives the same records each time.

        Raises:
            DataError: the name is taken.
        """
        if name in self._functions:
            raise DataError(
                "a data set's name is taken",
                got=repr(name),
                expected=f"another name than {', '.join(self.list())}",
                remedy="choose another, or remove the first from DatasetCatalog",
            )
        self._functions[name] = func

    def get(self, name: str) -> Records:
        """Read the data set ``name``.

        Raises:
            DataError: there is none of that name.
        """
        if name not in self._functions:
            raise DataError(
                "unknown data set",
                got=repr(name),
                expected=f"one of {', '.join(self.list()) or '(none is registered)'}",
                remedy="register it, for example with register_coco_instances",
            )
        return self._functions[name]()

    def list(self) -> list[str]:
        """The names, in the order of their registration."""
        return list(self._functions)

    def remove(self, name: str) -> None:
        """Forget the data set ``name``."""
        del self._functions[name]

    def clear(self) -> None:
        """Forget all data sets."""
        self._functions.clear()

    def __contains__(self, name: str) -> bool:
        return name in self._functions


class Metadata:
    """What is known of a data set, as attributes that are set once.

    Those that are used here: ``thing_classes``, ``thing_dataset_id_to_contiguous_id`` (COCO's category id ->
    class index), ``stuff_classes``, ``keypoint_names``, ``keypoint_flip_map``, ``label_divisor``,
    ``json_file``, ``image_root``, ``evaluator_type``.

    Raises:
        AttributeError: an attribute is read that is not set, or is set to another value.
    """

    name: str

    def __init__(self, name: str) -> None:
        self.__dict__["name"] = name

    def set(self, **attributes: Any) -> "Metadata":
        """Set several attributes."""
        for name, value in attributes.items():
            setattr(self, name, value)
        return self

    def get(self, key: str, default: Any = None) -> Any:
        """An attribute, or ``default`` where it is not set."""
        return self.__dict__.get(key, default)

    def as_dict(self) -> dict[str, Any]:
        """All attributes by name."""
        return dict(self.__dict__)

    def __setattr__(self, name: str, value: Any) -> None:
        if self.__dict__.setdefault(name, value) != value:
            raise AttributeError(
                f"{name!r} of the data set {self.name!r} is set already, to {self.__dict__[name]!r}"
            )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise AttributeError(
            f"nothing is known of {name!r} of the data set {self.name!r}; known are {sorted(self.__dict__)}"
        )

    def __repr__(self) -> str:
        return f"Metadata({self.__dict__})"


class _MetadataCatalog:
    """What is known of each data set."""

    def __init__(self) -> None:
        self._metadata: dict[str, Metadata] = {}

    def get(self, name: str) -> Metadata:
        """What is known of ``name``: one object a name, empty at first."""
        return self._metadata.setdefault(name, Metadata(name))

    def list(self) -> list[str]:
        """The names that were asked for."""
        return list(self._metadata)

    def remove(self, name: str) -> None:
        """Forget what is known of ``name``."""
        del self._metadata[name]


DatasetCatalog = _DatasetCatalog()
MetadataCatalog = _MetadataCatalog()
