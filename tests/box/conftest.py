# SPDX-License-Identifier: BSD-2-Clause
"""The box as fixtures: made on request, gone after the test, also when it fails."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from pyxdp_gossip.popbox import Box, names

MakeBox = Callable[..., Box]

FETCH = """
import http.client, json, sys
owners = []
for _ in range(int(sys.argv[2])):
    connection = http.client.HTTPConnection(sys.argv[1], 80, timeout=5)
    connection.request("GET", "/small")
    answer = connection.getresponse()
    assert answer.status == 200 and len(answer.read()) == 200, answer.status
    owners.append(int(answer.headers["X-Host"]))
    connection.close()
print(json.dumps(owners))
"""


@pytest.fixture(autouse=True)
def _root() -> None:
    """Namespaces, XDP and cgroups need it."""
    if os.geteuid() != 0:
        pytest.skip("the box needs root: run with sudo")


@pytest.fixture
def make_box() -> Iterator[MakeBox]:
    """Makes a box from the arguments of `Box`; it is taken down after the test."""
    with ExitStack() as stack:

        def make(**arguments: Any) -> Box:
            return stack.enter_context(Box(**arguments))

        yield make


@pytest.fixture
def fetch() -> Callable[[Box, int, int], list[int]]:
    """The hosts that answer `count` new connections from client 1 to the VIP of `family`."""

    def ask(box: Box, family: int, count: int) -> list[int]:
        vip = names.VIP4 if family == 4 else names.VIP6
        argv = [sys.executable, "-c", FETCH, vip, str(count)]
        owners: list[int] = json.loads(box.run_in(box.client_namespace(1), argv))
        return owners

    return ask
