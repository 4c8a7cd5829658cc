# SPDX-License-Identifier: BSD-2-Clause
"""The public names: complete, documented, typed as they are, and all in the API reference."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import UnionType

import pytest

import pyxdp_gossip as xg
from pyxdp_gossip import _native

ROOT = Path(__file__).resolve().parents[2]
STUB = ROOT / "pyxdp_gossip" / "_native.pyi"

# What mypy's stubtest cannot compare: constructors of Cython classes show no signature at run
# time; Cython's own names, and three constants that nobody outside needs, are in no stub.
NOT_COMPARED = """
pyxdp_gossip._(native|rings).__(reduce|setstate)_cython__
pyxdp_gossip._(native|rings).__test__
pyxdp_gossip._native.(ENCODE_MAX|SECTION_MAX|SECTION_MIN|DIGEST_BUCKETS|STATEMENTS)
pyxdp_gossip._(native|rings).[A-Z]\\w+.__init__
"""
DESIGNED = {
    "Config", "Explanation", "Forwarder", "GossipCore", "HeaderTemplate", "Node", "NodeEvent",
    "OwnerStates", "Service", "Session", "SessionTable", "Statistics", "explain",
}  # fmt: skip

PUBLIC = {name: getattr(xg, name) for name in xg.__all__}
CLASSES = {name: value for name, value in PUBLIC.items() if isinstance(value, type)}


def members() -> Iterator[tuple[str, object, str]]:
    """(qualified name, function or property, docstring of its class) of all public ones."""
    for name, value in PUBLIC.items():
        if inspect.isfunction(value):
            yield name, value, ""
    for name, value in CLASSES.items():
        for part, found in vars(value).items():
            if isinstance(found, classmethod | staticmethod):
                found = found.__func__
            is_code = callable(found) or isinstance(found, property)
            if not part.startswith("_") and (is_code or inspect.isgetsetdescriptor(found)):
                yield f"{name}.{part}", found, inspect.getdoc(value) or ""


MEMBERS = list(members())
IDS = [name for name, _, _ in MEMBERS]
FUNCTIONS = [member for member in MEMBERS if callable(member[1])]


def parameters(function: object) -> list[str]:
    assert callable(function)
    return [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]


def names(word: str, text: str) -> bool:
    """Whether a docstring says something of a parameter: in Args, or in backticks."""
    listed = rf"^ +(\w+, )*{word}(, \w+)*:"
    return bool(re.search(listed, text, re.M) or re.search(rf"`[^`]*\b{word}\b[^`]*`", text))


def test_all_is_sorted_complete_and_there() -> None:
    assert sorted(xg.__all__) == xg.__all__
    assert set(xg.__all__) >= DESIGNED
    assert len(set(xg.__all__)) == len(xg.__all__)
    errors = {name for name, value in vars(xg.errors).items() if isinstance(value, type)}
    assert set(xg.__all__) >= errors
    assert isinstance(xg.NodeEvent, UnionType)
    assert {kind.__name__ for kind in xg.NodeEvent.__args__} <= set(xg.__all__)


def test_the_package_says_that_it_is_typed() -> None:
    assert (ROOT / "pyxdp_gossip" / "py.typed").exists()


@pytest.mark.parametrize("name", sorted({*CLASSES, *(n for n in IDS if "." not in n)}))
def test_every_public_name_has_a_docstring_of_its_own(name: str) -> None:
    doc = inspect.getdoc(PUBLIC[name])
    assert doc
    assert not doc.startswith(f"{name}("), "made by dataclass"
    assert "see _native" not in doc


@pytest.mark.parametrize(("name", "found", "above"), MEMBERS, ids=IDS)
def test_every_public_method_and_property_has_a_docstring(
    name: str, found: object, above: str
) -> None:
    assert inspect.getdoc(found)


@pytest.mark.parametrize(
    ("name", "found", "above"), FUNCTIONS, ids=[name for name, _, _ in FUNCTIONS]
)
def test_a_docstring_names_every_parameter(name: str, found: object, above: str) -> None:
    text = f"{inspect.getdoc(found)}\n{above}"
    assert [word for word in parameters(found) if not names(word, text)] == []


@pytest.mark.parametrize("name", [n for n, c in CLASSES.items() if "__init__" in vars(c)])
def test_the_docstring_of_a_class_names_what_makes_one(name: str) -> None:
    found = CLASSES[name]
    if dataclasses.is_dataclass(found) or found is xg.EventStream:  # made by Node.events()
        return
    text = inspect.getdoc(found) or ""
    assert [word for word in parameters(vars(found)["__init__"]) if not names(word, text)] == []


@pytest.mark.parametrize(
    ("name", "found", "above"),
    [member for member in FUNCTIONS if inspect.isfunction(member[1])],
    ids=[member[0] for member in FUNCTIONS if inspect.isfunction(member[1])],
)
def test_a_docstring_names_every_exception_that_is_raised_here(
    name: str, found: object, above: str
) -> None:
    assert inspect.isfunction(found)
    raised = set(re.findall(r"\braise (\w+Error)\(", inspect.getsource(found)))
    text = f"{inspect.getdoc(found)}\n{above}"
    assert {error for error in raised if not re.search(rf"{error}[:,]", text)} == set()


# ---- the compiled module ----


def stub_docstrings() -> Iterator[tuple[str, str]]:
    """Of the classes of the stub that are public, and of their methods."""
    for node in ast.parse(STUB.read_text()).body:
        if isinstance(node, ast.ClassDef) and node.name in xg.__all__:
            yield node.name, ast.get_docstring(node) or ""
            for part in node.body:
                if isinstance(part, ast.FunctionDef) and part.name != "__init__":
                    yield f"{node.name}.{part.name}", ast.get_docstring(part) or ""


@pytest.mark.parametrize(("name", "text"), list(stub_docstrings()), ids=lambda value: value[:40])
def test_stub_and_compiled_module_say_the_same(name: str, text: str) -> None:
    found: object = _native
    for part in name.split("."):
        found = getattr(found, part)
    assert text == (inspect.getdoc(found) or "")
    assert text


def test_the_stub_has_the_names_and_arguments_of_the_compiled_module(tmp_path: Path) -> None:
    allowed = tmp_path / "allowed"
    allowed.write_text(NOT_COMPARED)
    command = [
        sys.executable, "-m", "mypy.stubtest", "--concise", "--allowlist", str(allowed),
        "--ignore-unused-allowlist", "pyxdp_gossip._native", "pyxdp_gossip._rings",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, done.stdout), done.stdout + done.stderr


def test_a_strictly_typed_program_may_use_the_package(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import pyxdp_gossip as xg\n"
        "async def follow(node: xg.Node) -> int:\n"
        "    counted: int = node.stats().stray_forwarded + node.stats()['miss_flooded']\n"
        "    async for event in node.events():\n"
        "        match event:\n"
        "            case xg.MemberChanged(host=host, state=xg.MemberState.DEAD):\n"
        "                counted += host\n"
        "            case xg.EventsLost(count=count):\n"
        "                counted += count\n"
        "    why = node.explain(b'')\n"
        "    reveal_type(why.steps[0].reason)\n"
        "    node.no_such_method()\n"
        "    return counted\n"
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", str(program)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.replace("builtins.", "").splitlines() == [
        'program.py:11: note: Revealed type is "str"',
        'program.py:12: error: "Node" has no attribute "no_such_method"  [attr-defined]',
    ], done.stderr


# ---- the reference ----


def test_the_api_reference_builds_without_a_warning_and_has_all_names(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            "make", "-s", "--old-file=setup", "docs", f"API={tmp_path}",
            f"BIN={Path(sys.executable).parent}",
        ],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    page = (tmp_path / "pyxdp_gossip.html").read_text()
    anchors = set(re.findall(r'id="([\w.]+)"', page))
    assert set(xg.__all__) | set(IDS) | {"Forwarder.forward"} <= anchors
