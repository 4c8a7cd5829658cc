# SPDX-License-Identifier: BSD-2-Clause
"""Imports without what a package brings along and an agent never uses.

Why: docs/adr/0018-no-more-is-imported-than-is-used.md.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec, module_from_spec


@contextmanager
def apart(package: str) -> Iterator[None]:
    """Meanwhile modules of `package` are imported without its own `__init__.py`, for this use.

    Afterwards `sys.modules` has neither it nor them, and whoever imports it gets it whole. If it is
    there already, or is not installed, nothing is different.
    """
    spec = None if package in sys.modules else find_spec(package)
    if spec is None:
        yield
        return
    sys.modules[package] = module_from_spec(spec)
    try:
        yield
    finally:
        for name in [*sys.modules]:
            if name == package or name.startswith(f"{package}."):
                del sys.modules[name]


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
