# SPDX-License-Identifier: BSD-2-Clause
"""Records and bursts call for their cache lines ahead: the compiler must not leave that out.

gcc 12 once took a function that only prefetches for one without effect and dropped its calls:
records entered the table three times slower, and no result was wrong.
"""

from __future__ import annotations

import re
import subprocess

import pytest

from pyxdp_gossip import _native

PREFETCH = re.compile(r"\b(prefetch\w*|prfm)\b")  # x86-64, arm64
HEAD = re.compile(r"^[0-9a-f]+ <([\w.]+?)(@plt)?>:$")


@pytest.fixture(scope="module")
def functions() -> dict[str, list[str]]:
    """Instructions of the extension by the function that they lie in."""
    argv = ["objdump", "-d", "--no-show-raw-insn", _native.__file__]
    code = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    found: dict[str, list[str]] = {}
    name = ""
    for line in code.split("\n"):
        head = HEAD.match(line)
        name = head[1].split(".")[0] if head else name
        found.setdefault(name, []).append(line)
    return found


@pytest.mark.parametrize("name", ["xg_session_prepare", "xg_forward_burst"])
def test_a_function_that_calls_for_lines_has_the_instructions(
    functions: dict[str, list[str]], name: str
) -> None:
    assert any(PREFETCH.search(line) for line in functions[name])


@pytest.mark.parametrize("way", ["apply", "absorb", "reconcile"])
def test_every_record_is_prepared(functions: dict[str, list[str]], way: str) -> None:
    callers = [
        name
        for name, lines in functions.items()
        if any("call" in at and "<xg_session_prepare" in at for at in lines)
    ]
    assert any(way in name for name in callers), callers
