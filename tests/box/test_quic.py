# SPDX-License-Identifier: BSD-2-Clause
"""QUIC through ECMP that changes: real servers, and clients whose address changes meanwhile."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pyxdp_gossip.popbox import Box, names
from tests.box.pop import AGENTS, Pop
from tests.box.quic_client import QuicClient, SilenceError

MakeBox = Callable[..., Box]

PORT = 4433
HOSTS = 3
START_S = 20.0
SILENCE_S = 3.0  # many times aioquic's first probe timeouts
VIPS = {4: names.VIP4, 6: names.VIP6}


def settings(folder: Path, *, sealed: bool, quic: bool = True) -> dict[str, Any]:
    """A QUIC service of each family; ids of 9 octets, or sealed ones of 17."""
    layout: dict[str, Any] = {"config_id": 2}
    if sealed:
        key = folder / "quic.key"
        key.write_text("8f95f09245765f80256934e50c66207f\n")
        key.chmod(0o600)
        layout |= {"nonce_length": 14, "key_file": str(key)}
    return {
        "table": {"sessions_v4": 4096, "sessions_v6": 4096},
        "service": [
            {"vip": vip, "port": PORT, "protocol": "udp", "quic": quic} for vip in VIPS.values()
        ],
        "quic": [layout],
    }


def start_servers(box: Box) -> None:
    """A server on each host and each VIP, with the ids of its host's configuration."""
    waiting = []
    for host in box.host_ids:
        for family, vip in VIPS.items():
            ready = box.host_folder(host) / f"quic{family}.ready"
            argv = [sys.executable, "-m", "tests.box.quic_server"]
            argv += [str(box.agent(host).config), vip, str(PORT), str(ready)]
            waiting.append((box.start_on_host(host, f"quic{family}", argv), ready))
    for process, ready in waiting:
        process.wait_until(ready.exists, "listening", START_S)


@pytest.fixture
def make_pop(make_box: MakeBox, tmp_path: Path) -> Iterator[Callable[..., Pop]]:
    """A box of three hosts with an agent and QUIC servers each."""
    made: list[Pop] = []

    def make(**options: bool) -> Pop:
        box = make_box(hosts=HOSTS, proxy="none")
        made.append(Pop(box, AGENTS, settings(tmp_path, **options)))
        start_servers(box)
        return made[0]

    yield make
    for pop in made:
        pop.close()


@pytest.mark.parametrize("sealed", [False, True], ids=["plain", "sealed"])
def test_a_connection_lives_while_ecmp_and_the_clients_address_change(
    make_pop: Callable[..., Pop], sealed: bool
) -> None:
    pop = make_pop(sealed=sealed)
    box = pop.box
    for family, vip in VIPS.items():
        box.set_next_hops([1])
        with closing(QuicClient(box, vip, PORT)) as client:
            client.connect()
            assert client.ask() == 1
            before = pop.count(2, "quic_forwarded"), pop.count(3, "quic_forwarded")
            box.set_next_hops([2])  # the same address, by another host
            assert [client.ask() for _ in range(5)] == [1] * 5
            assert pop.count(2, "quic_forwarded") > before[0]
            box.set_next_hops([3])
            client.rebind()  # another address, as after a NAT's timeout
            assert [client.ask() for _ in range(5)] == [1] * 5
            assert pop.count(3, "quic_forwarded") > before[1]
            client.quic.change_connection_id()  # a migration of the client's own
            client.rebind()
            box.set_next_hops([2])
            assert [client.ask() for _ in range(5)] == [1] * 5
            with closing(QuicClient(box, vip, PORT)) as another:
                another.connect()  # what is new stays where it comes
                assert another.ask() == 2, family
    assert pop.count(1, "delivered_udp") > 0
    assert pop.count(1, "quic_forwarded") == 0


def test_a_handshake_goes_on_while_ecmp_changes(make_pop: Callable[..., Pop]) -> None:
    pop = make_pop(sealed=True)
    pop.box.set_next_hops([1])
    with closing(QuicClient(pop.box, names.VIP4, PORT)) as client:
        client.begin()
        client.receive_one()  # the server's Initial packet, which tells its id
        pop.box.set_next_hops([2])
        client.finish()
        assert client.ask() == 1
    assert pop.count(2, "quic_forwarded") > 0
    assert pop.count(2, "passed_udp_new") == 0  # its Initial packets, too


def test_without_quic_the_same_connection_breaks(make_pop: Callable[..., Pop]) -> None:
    pop = make_pop(sealed=False, quic=False)
    box = pop.box
    box.set_next_hops([1])
    with closing(QuicClient(box, names.VIP4, PORT)) as client:
        client.connect()
        assert client.ask() == 1
        box.set_next_hops([2])
        client.rebind()
        with pytest.raises(SilenceError):
            client.ask(SILENCE_S)
        assert pop.count(2, "passed_udp_new") > 0
        assert pop.count_all("quic_forwarded") == 0
        box.set_next_hops([1])  # it was the way, and nothing else
        client.settle()
        assert client.ask() == 1
