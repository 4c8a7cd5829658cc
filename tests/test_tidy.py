# SPDX-License-Identifier: BSD-2-Clause
"""Habits, enforced: length of functions, lines and files, SPDX lines, no leftovers."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LINES_A_FUNCTION = 70
COLUMNS = 100
LINES_A_FILE = 500
SOURCE_SUFFIXES = {".py", ".pyi", ".pyx", ".pxd", ".pxi", ".c", ".h", ".sh"}
LEFTOVERS = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|\bprint\(.*debug|breakpoint\(\)|\bpdb\b")
# Where a C function begins: a line that starts with a name and whose brace stands alone.
C_FUNCTION = re.compile(r"^\w[^;=]*\)\n\{\n(.*?)^\}", re.MULTILINE | re.DOTALL)


def tracked() -> list[Path]:
    """Files that git tracks, or would: new ones count from their first save."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / line for line in output.splitlines() if (ROOT / line).is_file()]


FILES = tracked()
SOURCES = [path for path in FILES if path.suffix in SOURCE_SUFFIXES or path.name == "Makefile"]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_source_file_says_its_licence_in_its_first_lines(path: Path) -> None:
    head = path.read_text().splitlines()[:3]
    assert any("SPDX-License-Identifier: BSD-2-Clause" in line for line in head)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_lines_and_files_are_short_and_hold_no_leftovers(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= LINES_A_FILE, f"{len(lines)} lines"
    for number, line in enumerate(lines, 1):
        assert len(line.expandtabs(8)) <= COLUMNS, f"line {number} is {len(line)} columns wide"
        if path.name != "test_tidy.py":
            assert not LEFTOVERS.search(line), f"line {number}: {line.strip()}"


@pytest.mark.parametrize(
    "path", [path for path in SOURCES if path.suffix in {".py", ".pyi"}], ids=name_of
)
def test_python_functions_are_short_and_modules_say_what_they_are_for(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "no module docstring"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= LINES_A_FUNCTION, f"{node.name}: {length} lines"


@pytest.mark.parametrize(
    "path", [path for path in SOURCES if path.suffix in {".c", ".h"}], ids=name_of
)
def test_c_functions_are_short(path: Path) -> None:
    for match in C_FUNCTION.finditer(path.read_text()):
        length = match.group(1).count("\n") + 2
        assert length <= LINES_A_FUNCTION, f"{match.group(0).splitlines()[0]}: {length} lines"


def test_no_file_names_a_place_outside_the_project() -> None:
    outside = "../" + "shared"
    for path in FILES:
        if path.suffix in SOURCE_SUFFIXES | {".md", ".toml"}:
            assert outside not in path.read_text(), name_of(path)
