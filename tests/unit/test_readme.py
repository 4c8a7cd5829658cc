# SPDX-License-Identifier: BSD-2-Clause
"""The README's Python: what needs no privilege runs, and gives what the comments say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import pyxdp_gossip as xg

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
SNIPPETS = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)
RESULT = re.compile(r"^(?P<expression>\S.*?)\s+# → (?P<result>.+)$")


def results(snippet: str) -> list[tuple[str, str]]:
    """(expression, what the comment says it gives)."""
    found = (RESULT.match(line) for line in snippet.splitlines())
    return [(match["expression"], match["result"]) for match in found if match]


def test_the_snippets_run_and_give_what_they_say(capsys: pytest.CaptureFixture[str]) -> None:
    attaches, *others = SNIPPETS
    assert "xg.Node(" in attaches
    compile(attaches, "README.md", "exec")
    scope: dict[str, object] = {}
    for snippet in others:
        exec(compile(snippet, "README.md", "exec"), scope)
        for expression, result in results(snippet):
            assert repr(eval(expression, scope)) == result, expression
    assert sum(len(results(snippet)) for snippet in others) >= 5
    assert capsys.readouterr().out.endswith("A stray, encapsulated to the owner.\n")


def test_the_readme_names_nothing_that_is_not_there() -> None:
    used = {name for snippet in SNIPPETS for name in re.findall(r"\bxg\.(\w+)", snippet)}
    assert used <= set(xg.__all__)
    on_node = {name for snippet in SNIPPETS for name in re.findall(r"\bnode\.(\w+)", snippet)}
    assert {name for name in on_node if not hasattr(xg.Node, name)} == set()
