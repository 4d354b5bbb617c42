"""Something done right after a module is first imported, and not a moment earlier.

torch reads OMP_NUM_THREADS and its relatives while it loads, and scripts set them in their first lines: gradbelt must
not import torch before the script does.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class AfterImport(MetaPathFinder):
    """Calls `then(module)` once each named module has been imported; at once for those that already are."""

    def __init__(self, then: dict[str, Callable[[ModuleType], None]]) -> None:
        self._then = dict(then)

    def install(self) -> None:
        for name in [name for name in self._then if name in sys.modules]:
            self._then.pop(name)(sys.modules[name])
        sys.meta_path.insert(0, self)

    def uninstall(self) -> None:
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        then = self._then.pop(fullname, None)  # popped first, so that the look-up below passes us by
        if then is None:
            return None
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            self._then[fullname] = then
            return None
        spec.loader = _Followed(spec.loader, then)
        return spec


class _Followed(Loader):
    """The real loader, followed by a call."""

    def __init__(self, loader: Loader, then: Callable[[ModuleType], None]) -> None:
        self._loader, self._then = loader, then

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # the module must not see us: its own spec keeps the real loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._then(module)
