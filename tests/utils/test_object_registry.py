"""Objects by name and by dotted path."""

import pytest

from detexport.modeling.registries import BACKBONE_REGISTRY
from detexport.utils.registry import Registry, locate


def test_entries_by_name() -> None:
    registry = Registry("shape")

    @registry.register()
    class Circle:
        pass

    registry.register(dict, name="Map")
    assert registry.get("Circle") is Circle
    assert "Map" in registry
    assert dict(registry) == {"Circle": Circle, "Map": dict}
    with pytest.raises(KeyError, match="no shape 'Square'; registered are"):
        registry.get("Square")
    with pytest.raises(ValueError, match="registered already"):
        registry.register(Circle)
    assert isinstance(BACKBONE_REGISTRY, Registry)


def test_objects_by_path() -> None:
    assert locate("detexport.utils.registry.Registry.register") is Registry.register
    assert locate("collections.abc.Sized").__name__ == "Sized"
    for path in ("no_such_package.x", "detexport.utils.registry.Nope", "detexport.nope.x", "plain"):
        with pytest.raises(ImportError, match="there is no"):
            locate(path)
