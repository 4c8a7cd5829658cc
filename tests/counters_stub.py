# SPDX-License-Identifier: BSD-2-Clause
"""Writes pyxdp_gossip/_counters.pyi, the types of the attributes of Statistics: `make stubs`."""

from __future__ import annotations

from pathlib import Path

from pyxdp_gossip.stats import COUNTERS, attribute_docstring

STUB = Path(__file__).resolve().parent.parent / "pyxdp_gossip" / "_counters.pyi"
COLUMNS = 100
HEAD = '''# SPDX-License-Identifier: BSD-2-Clause
"""The attributes of Statistics, which stats.py makes at run time of the list in csrc/stats.h.

Written by `make stubs`; do not edit.
"""

class CounterAttributes:
    """One attribute for each counter."""

    __slots__ = ()
'''


def stub() -> str:
    """The whole file."""
    lines = [HEAD]
    for name, action, sentence in COUNTERS:
        text = attribute_docstring(action, sentence)
        line = f'        """{text}"""'
        if len(line) > COLUMNS:
            sentence, _, rest = text.rpartition(". ")
            line = f'        """{sentence}.\n\n        {rest}\n        """'
        lines.append(f"    @property\n    def {name}(self) -> int:\n{line}\n")
    return "\n".join(lines).replace("()\n\n    @property", "()\n    @property", 1)


if __name__ == "__main__":
    STUB.write_text(stub())
