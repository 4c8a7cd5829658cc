# SPDX-License-Identifier: BSD-2-Clause
"""Packages that dependencies import and an agent never uses stay unopened, and out of memory.

Of pyroute2 an agent needs the formats of netlink messages, which lie in modules of their own; the
package itself imports all it has. structlog imports asyncio, for loggers that nobody made, and
rich, for a terminal. This module is imported before them: it puts asyncio and pyroute2 into
`sys.modules` as they are before their `__init__.py` has run. Whoever asks one of them for a name
opens it then, and cannot tell. Why: docs/adr/0018-what-nobody-asked-for-stays-unopened.md.
"""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec, module_from_spec
from threading import RLock
from types import ModuleType
from typing import Any, Final

PACKAGES: Final = ("asyncio", "pyroute2")


_locks: Final = {package: RLock() for package in PACKAGES}
_being_opened: Final[set[str]] = set()


class _Unopened(ModuleType):
    """A package whose `__init__.py` runs when it is asked for a name that is no module of its."""

    def __getattr__(self, name: str) -> Any:
        with _locks[self.__name__]:  # another thread waits here until the package is whole
            if self.__name__ in _being_opened:
                raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
            if type(self) is _Unopened and _has_module(self, name):
                return importlib.import_module(f"{self.__name__}.{name}")
            _open(self)
        return getattr(self, name)

    def __dir__(self) -> list[str]:
        with _locks[self.__name__]:
            _open(self)
        return list(ModuleType.__dir__(self))


def _has_module(package: ModuleType, name: str) -> bool:
    return not name.startswith("__") and find_spec(f"{package.__name__}.{name}") is not None


def _open(package: ModuleType) -> None:
    spec = package.__spec__
    if type(package) is not _Unopened or package.__name__ in _being_opened:
        return
    assert spec is not None  # as found by find_spec(), and so its loader
    assert spec.loader is not None
    _being_opened.add(package.__name__)
    try:
        spec.loader.exec_module(package)
    finally:
        _being_opened.remove(package.__name__)
    package.__class__ = ModuleType  # type: ignore[assignment] # not if it failed: the next is told


def _leave_unopened(package: str) -> None:
    """One that is there already, or is not installed, stays as it is."""
    spec = None if package in sys.modules else find_spec(package)
    if spec is not None:
        module = module_from_spec(spec)
        module.__class__ = _Unopened
        sys.modules[package] = module


@contextmanager
def hidden(package: str) -> Iterator[None]:
    """Meanwhile `package` cannot be imported, unless it was: for a program that is all our own."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment] # as importlib's documentation says
    try:
        yield
    finally:
        del sys.modules[package]


for _package in PACKAGES:
    _leave_unopened(_package)
