# SPDX-License-Identifier: BSD-2-Clause
"""What packages bring along and an agent never uses stays out of memory, and nobody can tell.

Each case is a program of its own: what a process has imported, it keeps.
"""

import subprocess
import sys

import pytest

LIBRARY = "import sys, pyxdp_gossip\n"
AGENT = "import sys, pyxdp_gossip.cli as cli\nlog = cli.set_up_log()\n"
USES = (
    "from ipaddress import ip_address\n"
    "from pyxdp_gossip import device_answers, interfaces, netlink\n"
    "link = interfaces.link('lo')\n"
    "device_answers.ask_device(link.index), device_answers.ask_state(link.index)\n"
    "assert netlink.is_local(ip_address('127.0.0.1'))\nnetlink.path_mtu(ip_address('127.0.0.2'))\n"
)
HEAVY = {"asyncio", "asyncio.events", "ssl", "_hashlib", "pyroute2", "sqlite3", "rich"}


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def imported(program: str) -> set[str]:
    return set(run(program + "print(*sys.modules)").split())


@pytest.mark.parametrize("program", [LIBRARY, LIBRARY + USES, AGENT, AGENT + USES])
def test_what_is_not_used_is_not_imported(program: str) -> None:
    modules = imported(program)
    assert modules >= {"pyxdp_gossip.netlink_formats", "cryptography"}
    assert not modules & HEAVY
    assert not {name for name in modules if name.startswith(("asyncio.", "pyroute2."))}


def test_without_the_remedy_it_would_be() -> None:
    program = "from pyroute2.netlink.rtnl.rtmsg import rtmsg\nimport structlog, hashlib, sys\n"
    assert imported(program) >= HEAVY


def test_a_log_is_written_without_them() -> None:
    program = AGENT + "log.bind(host=1).info('begun', at=3)\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    assert "level='info' event='begun' host=1 at=3" in done.stderr


@pytest.mark.parametrize("first", [LIBRARY, AGENT])
@pytest.mark.parametrize(
    "program",
    [
        "import asyncio; print(asyncio.run(asyncio.sleep(0, 'slept')), *dir(asyncio))",
        "import asyncio.base_events; print(asyncio.base_events.__doc__, asyncio.__doc__)",
        "import pyroute2; print(pyroute2.netlink.NLM_F_REQUEST, *dir(pyroute2))",
        "from pyroute2.netlink.rtnl.iprsocket import MarshalRtnl; print(MarshalRtnl.__name__)",
        "from pyroute2.netlink.rtnl.rtmsg import rtmsg\n"
        "import pyroute2.netlink.rtnl.rtmsg as whole; print(rtmsg is whole.rtmsg)",
        "from pyroute2 import IPRoute\n"
        "with IPRoute() as ip: print(ip.link_lookup(ifname='lo'))",
        "import rich.console; print(rich.console.Console.__name__)",
        "import hashlib; print(hashlib.blake2b(b'').hexdigest())",
    ],
)  # fmt: skip
def test_whoever_imports_it_gets_it_whole(first: str, program: str) -> None:
    answer = run(program)
    assert answer
    assert run(first + program) == answer


def test_a_package_that_is_there_already_stays_and_is_used() -> None:
    program = "import asyncio, pyroute2.netlink.rtnl.rtmsg, rich, structlog\n"
    program += "before = asyncio, pyroute2, rich, pyroute2.netlink.rtnl.rtmsg\n" + AGENT
    program += "names = 'asyncio', 'pyroute2', 'rich', 'pyroute2.netlink.rtnl.rtmsg'\n"
    program += "print(before == tuple(map(sys.modules.get, names)))\n"
    program += "from pyxdp_gossip.netlink_formats import rtmsg\n"
    program += "print(rtmsg is pyroute2.netlink.rtnl.rtmsg.rtmsg)"
    assert run(program).split() == ["True", "True"]


def test_an_import_that_fails_leaves_nothing_behind() -> None:
    program = """
from pyxdp_gossip.lean_imports import apart, hidden
for context, module in (
    (apart("pyroute2"), "pyroute2.no_such_module"),
    (hidden("colorsys"), "colorsys"),
    (apart("no_such_package"), "no_such_package"),
):
    try:
        with context:
            __import__(module)
    except ImportError as error:
        print(error.name)
print([name for name in sys.modules if name.split(".")[0] in ("pyroute2", "colorsys")])
"""
    names = ["pyroute2.no_such_module", "colorsys", "no_such_package"]
    assert run(LIBRARY + program).splitlines() == [*names, "[]"]


def test_what_was_imported_before_is_neither_hidden_nor_apart() -> None:
    program = """
from pyxdp_gossip.lean_imports import apart, hidden
import colorsys, pyroute2.netlink
with hidden("colorsys"), apart("pyroute2"):
    import colorsys as again, pyroute2.netlink.rtnl
print(again is colorsys is sys.modules["colorsys"], "pyroute2.netlink" in sys.modules)
"""
    assert run(LIBRARY + program) == "True True"
