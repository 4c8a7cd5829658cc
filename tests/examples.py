# SPDX-License-Identifier: BSD-2-Clause
"""How many examples a property gets: fewer where each one is slow, as under sanitizers."""

from __future__ import annotations

import os
from typing import Final

DIVISOR: Final = "EXAMPLES_DIVISOR"  # of the environment


def examples(count: int) -> int:
    """That many in an ordinary run."""
    return max(1, count // int(os.environ.get(DIVISOR, "1")))
