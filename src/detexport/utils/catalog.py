"""Catalogs of data sets and their metadata, by name."""

from collections.abc import Callable
from typing import Any

from detexport.errors import DataError

Records = list[dict[str, Any]]


class _DatasetCatalog:
    """Functions that read data sets, by name; see ``detexport.data.datasets`` for the records."""

    def __init__(self) -> None:
        self._functions: dict[str, Callable[[], Records]] = {}

    def register(self, name: str, func: Callable[[], Records]) -> None:
        """Register a data set.

        Args:
            name: of the data set, unique.
            func: reads the data set; must return the same records each time.

        Raises:
            DataError: the name is registered already.
        """
        if name in self._functions:
            raise DataError(
                "the name of a data set is registered already",
                got=repr(name),
                expected=f"another name than {', '.join(self.list())}",
                remedy="choose another name, or remove the first data set from DatasetCatalog",
            )
        self._functions[name] = func

    def get(self, name: str) -> Records:
        """Read the data set ``name``.

        Raises:
            DataError: no data set of this name is registered.
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
        """Return the names in the order of their registration."""
        return list(self._functions)

    def remove(self, name: str) -> None:
        """Remove the data set ``name``."""
        del self._functions[name]

    def clear(self) -> None:
        """Remove all data sets."""
        self._functions.clear()

    def __contains__(self, name: str) -> bool:
        return name in self._functions


class Metadata:
    """Metadata of a data set: attributes that can be set once.

    Those in use: ``thing_classes``, ``thing_dataset_id_to_contiguous_id`` (COCO's category id ->
    class index), ``stuff_classes``, ``keypoint_names``, ``keypoint_flip_map``, ``label_divisor``,
    ``json_file``, ``image_root``, ``evaluator_type``.

    Raises:
        AttributeError: an attribute is read that is not set, or set again to another value.
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
        """Return an attribute, or ``default`` if it is not set."""
        return self.__dict__.get(key, default)

    def as_dict(self) -> dict[str, Any]:
        """Return all attributes by name."""
        return dict(self.__dict__)

    def __setattr__(self, name: str, value: Any) -> None:
        if self.__dict__.setdefault(name, value) != value:
            raise AttributeError(
                f"{name!r} of the data set {self.name!r} is set already, to {self.__dict__[name]!r}"
            )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise AttributeError(f"the metadata of {self.name!r} has no {name!r}; it has {sorted(self.__dict__)}")

    def __repr__(self) -> str:
        return f"Metadata({self.__dict__})"


class _MetadataCatalog:
    """Metadata of data sets, by name."""

    def __init__(self) -> None:
        self._metadata: dict[str, Metadata] = {}

    def get(self, name: str) -> Metadata:
        """Return the metadata of ``name``, the same object each time; it is empty at first."""
        return self._metadata.setdefault(name, Metadata(name))

    def list(self) -> list[str]:
        """Return the names of all metadata."""
        return list(self._metadata)

    def remove(self, name: str) -> None:
        """Remove the metadata of ``name``."""
        del self._metadata[name]

    def __contains__(self, name: str) -> bool:
        return name in self._metadata


DatasetCatalog = _DatasetCatalog()
MetadataCatalog = _MetadataCatalog()
