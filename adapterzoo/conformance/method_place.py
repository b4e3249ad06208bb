"""Find a method again in another process, where nothing but its place in the code is known."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from dataclasses import dataclass
from typing import Any

from adapterzoo.errors import PluginError
from adapterzoo.methods.contract import Method


@dataclass(frozen=True)
class MethodPlace:
    """The place where another process finds a method: its name in the registry, or its class."""

    name: str
    module: str
    file: str | None
    qualified_name: str

    @classmethod
    def of(cls, method: Method[Any]) -> MethodPlace | None:
        """Return the place of a method; None if no process can find it.

        That is so if it is not installed, and its class is inside a function.
        """
        from adapterzoo.methods.registry import registry

        kind = type(method)
        module = sys.modules.get(kind.__module__)
        if registry().get(method.name) is not method and _follow(module, kind.__qualname__) is not kind:
            return None
        return cls(method.name, kind.__module__, getattr(module, "__file__", None), kind.__qualname__)

    def find(self) -> Method[Any]:
        """Return the method, in another process."""
        from adapterzoo.methods.registry import registry

        installed = registry().get(self.name)
        if installed is not None and type(installed).__module__ == self.module:
            return installed
        try:
            module = importlib.import_module(self.module)
        except ImportError:
            module = self._load_file()
        found: Method[Any] = _follow(module, self.qualified_name)()
        return found

    def _load_file(self) -> Any:
        """Load the module from its file, as a test's module or a script, which cannot be imported by name."""
        specification = importlib.util.spec_from_file_location(self.module, self.file or "")
        if specification is None or specification.loader is None:
            raise PluginError(f"the module {self.module} of the method {self.name} cannot be imported")
        module = importlib.util.module_from_spec(specification)
        sys.modules[self.module] = module
        specification.loader.exec_module(module)
        return module


def _follow(module: Any, qualified_name: str) -> Any:
    """Return the object with this name in a module; None if there is none."""
    found = module
    for name in qualified_name.split("."):
        found = getattr(found, name, None)
    return found
