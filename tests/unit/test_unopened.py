# SPDX-License-Identifier: BSD-2-Clause
"""What dependencies import and an agent never uses stays out of memory, and nobody can tell.

Each case is a program of its own: what a process has imported, it keeps.
"""

import subprocess
import sys

import pytest

BEGIN = "import sys, pyxdp_gossip.cli as cli\nlog = cli.set_up_log()\n"


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def imported(program: str) -> set[str]:
    return set(run(program + "print(*sys.modules)").split())


def test_an_agents_program_has_not_what_its_dependencies_would_import() -> None:
    modules = imported(BEGIN)
    assert modules >= {"structlog.stdlib", "pyroute2.netlink.rtnl.rtmsg", "asyncio", "pyroute2"}
    assert not modules & {
        "asyncio.events",
        "ssl",
        "pyroute2.iproute",
        "sqlite3",
        "rich",
        "_hashlib",
    }


def test_without_the_remedy_it_has_all_of_it() -> None:
    modules = imported("import asyncio, pyroute2, rich, structlog\n" + BEGIN)
    assert modules >= {"asyncio.events", "ssl", "pyroute2.iproute", "rich.console"}


@pytest.mark.parametrize(
    "program",
    [
        "import asyncio; print(asyncio.run(asyncio.sleep(0, 'slept')))",
        "from asyncio import run, sleep; print(run(sleep(0, 'slept')))",
        "from asyncio import *; print(run(sleep(0, 'slept')))",
        "import asyncio.queues; print(asyncio.Queue is asyncio.queues.Queue)",
        "import asyncio; print(*dir(asyncio)); print(*dir(asyncio))",
        "import asyncio; print(getattr(asyncio, 'nothing', 'none'))",
        "import asyncio, importlib; print(importlib.reload(asyncio).run.__name__)",
        "import inspect, asyncio; print(inspect.getmodule(asyncio.run).__name__)",
        "import pyroute2; print(pyroute2.netlink.NLM_F_REQUEST)",
        "import pyroute2; print(pyroute2.IPRoute.__name__, pyroute2.__all__)",
        "from pyroute2 import IPRoute, protocols; print(protocols.ETH_P_IP)",
        "from pyroute2.netlink import nlmsg; print(nlmsg.__name__)",
        "import rich.console; print(rich.console.Console.__name__)",
    ],
)
def test_who_asks_for_it_gets_what_another_program_gets(program: str) -> None:
    answer = run(program)
    assert answer
    assert run(BEGIN + program) == answer


def test_a_package_that_is_there_already_stays_as_it_is() -> None:
    program = "import asyncio, pyroute2, rich\nbefore = asyncio, pyroute2, rich\n" + BEGIN
    program += "print(before == tuple(map(sys.modules.get, ('asyncio', 'pyroute2', 'rich'))))"
    program += "\nprint(type(asyncio).__name__)"
    assert run(program).split() == ["True", "module"]


def test_threads_that_ask_at_once_all_see_the_whole() -> None:
    program = """
import asyncio, threading
barrier, seen = threading.Barrier(8), []
def ask():
    barrier.wait()
    seen.append(asyncio.run.__name__ + asyncio.Queue.__name__ + asyncio.timeout.__name__)
threads = [threading.Thread(target=ask) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(seen), *set(seen))
"""
    assert run(BEGIN + program) == "8 runQueuetimeout"


def test_a_package_that_cannot_be_opened_says_so_each_time() -> None:
    program = """
import asyncio
sys.modules["asyncio.runners"] = None
for _ in range(2):
    try:
        asyncio.run
    except ImportError as error:
        print(error.name)
del sys.modules["asyncio.runners"]
print(asyncio.run.__name__)
"""
    assert run(BEGIN + program).split() == ["asyncio.runners"] * 2 + ["run"]


def test_hidden_is_for_the_time_of_an_import_and_takes_nothing_away() -> None:
    program = """
from pyxdp_gossip.unopened import hidden
with hidden("colorsys"):
    try:
        import colorsys
    except ImportError as error:
        print(error.name)
import colorsys
with hidden("colorsys"):
    import colorsys as again
print(again is colorsys is sys.modules["colorsys"])
"""
    assert run(BEGIN + program).split() == ["colorsys", "True"]
