# SPDX-License-Identifier: BSD-2-Clause
"""What the running kernel answers of a veth and of the loopback."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest

from pyxdp_gossip import HostError, features
from pyxdp_gossip.device_answers import ask_state
from pyxdp_gossip.xsk import XskProgram
from tests.kernel.agent_host import ROOT
from tests.kernel.conftest import Namespace

MakeNamespace = Callable[[str], Namespace]


@pytest.fixture
def place(netns: MakeNamespace) -> Namespace:
    """A namespace with one end of a veth pair."""
    made = netns("f")
    made.ip("link add veth0 type veth peer name veth1")
    made.ip("link set veth0 up")
    made.ip("link set veth1 up")
    return made


def test_a_veth_is_known_and_nothing_stays_behind(place: Namespace) -> None:
    before = os.listdir("/proc/self/fd"), resource.getrlimit(resource.RLIMIT_MEMLOCK)
    found = place.run(lambda: features("veth0", bind=True))
    after = os.listdir("/proc/self/fd"), resource.getrlimit(resource.RLIMIT_MEMLOCK)
    assert found.driver == "veth"
    assert found["native-xdp"].state == "yes"
    assert found["af-xdp-zero-copy"].state == "no"
    assert "virtio_net" in found["af-xdp-zero-copy"].needs
    assert {one.name for one in found.all if one.state == "unknown"} <= {
        "zero-copy-multi-buffer", "threaded-napi",
    }  # fmt: skip
    assert found["tcp-lookup"].state == found["managed-neighbours"].state == "yes"
    assert found.auto == "copy"
    assert len(before[0]) == len(after[0])
    assert before[1] == after[1]
    assert "xdp" not in place.ip("link show dev veth0")


def test_the_loopback_has_generic_xdp_only(place: Namespace) -> None:
    found = place.run(lambda: features("lo"))
    assert (found["native-xdp"].state, found["generic-xdp"].state) == ("no", "yes")
    assert found.auto == "skb"


def test_a_missing_interface_is_one_line(place: Namespace) -> None:
    with pytest.raises(HostError, match=r"no interface 'nope'; there are: .*veth0"):
        place.run(lambda: features("nope"))


def test_an_attached_program_is_seen_with_its_mode(place: Namespace) -> None:
    def look(mode: str) -> str:
        with XskProgram("veth0", mode=mode):
            found = ask_state(found_index).attached
        assert found is not None
        assert found.program > 0
        return found.mode

    found_index = place.run(socket.if_nametoindex, "veth0")
    assert [place.run(look, mode) for mode in ("native", "skb")] == ["native", "skb"]
    assert place.run(ask_state, found_index).attached is None


def test_without_privileges_what_is_told_is_told_and_the_rest_is_unknown(place: Namespace) -> None:
    script = (
        "from pyxdp_gossip import features\nfor one in features('veth0').all: print(one.name, one)"
    )
    done = subprocess.run(
        [
            "ip", "netns", "exec", place.name, "setpriv", "--bounding-set=-all",
            "--inh-caps=-all", sys.executable, "-c", script,
        ],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    said = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert said["native-xdp"] == "yes"
    assert said["tcp-lookup"] == "could not tell: needs CAP_BPF and CAP_NET_ADMIN"
    assert said["ring-buffer"] == said["sockops"] == said["tcp-lookup"]
    assert said["managed-neighbours"] == "could not tell: needs CAP_NET_ADMIN"
    assert said["af-xdp-copy"] == "could not tell: needs CAP_NET_RAW"
