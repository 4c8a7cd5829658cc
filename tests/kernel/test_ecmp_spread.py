# SPDX-License-Identifier: BSD-2-Clause
"""A real router with 64 next hops (Linux's own ECMP) spreads tunnel packets over all of them."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest

from tests.golden_formats import FLAVOURS, Flavour, in_family
from tests.golden_world import OWN_MAC, PEER, ROUTES, underlay
from tests.kernel.conftest import Namespace
from tests.many_flows import BUCKETS, KINDS, chi_square, flow_frames
from tests.unit.test_golden_formats import built, name_of

CHI_SQUARE_MAX: Final = 119.0  # once in a thousand over all cases here: they are some 40
ETH_P_ALL: Final = 3
AT_ONCE: Final = 64
ROOM_BYTES: Final = 64 << 20
WAIT_S: Final = 20.0  # a limit for a failure
IN, OUT = "in0", "out0"
HOPS: Final = {4: "10.77.0.", 6: "fd77::"}
LAYER_4, INNER = 1, 2  # net.ipv4.fib_multipath_hash_policy
BY_FLOW_LABEL: Final = 0  # ... of IPv6: addresses and flow label


def hop_mac(number: int) -> bytes:
    return bytes((2, 0, 0, 0, 77, number))


class Router:
    """A Linux router between this host and 64 next hops towards the peer."""

    def __init__(self, netns: Callable[[str], Any], veth: Callable[..., None],
                 version: int) -> None:  # fmt: skip
        self.inside: Namespace = netns("r")
        self.host, self.beyond = netns("h"), netns("b")
        veth(self.host, "h0", self.inside, IN)
        veth(self.inside, OUT, self.beyond, "b0")
        for setting in ("net.ipv4.conf.all.rp_filter=0", f"net.ipv4.conf.{IN}.rp_filter=0",
                        "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"):  # fmt: skip
            self.inside.exec(f"sysctl -qw {setting}")
        mac = ROUTES[PEER].destination_mac.hex(":")
        self.inside.ip(f"link set {IN} address {mac}")
        nodad = " nodad" if version == 6 else ""
        prefix = "24" if version == 4 else "64"
        self.inside.ip(f"addr add {HOPS[version]}254/{prefix} dev {OUT}{nodad}")
        hops = ""
        for number in range(BUCKETS):
            hop = f"{HOPS[version]}{number + 1}"
            self.inside.ip(f"neigh add {hop} lladdr {hop_mac(number).hex(':')} dev {OUT}")
            hops += f" nexthop via {hop} dev {OUT}"
        self.inside.ip(f"-{version} route add {in_family(underlay(PEER), version)}{hops}")

    def set_policy(self, version: int, policy: int) -> None:
        """How it chooses; the seed is fixed, where the kernel lets us, so that a run is as the
        one before."""
        self.inside.exec(f"sysctl -qw net.ipv{version}.fib_multipath_hash_policy={policy}")
        self.inside.exec("sysctl -eqw net.ipv4.fib_multipath_hash_seed=1")

    @contextmanager
    def ends(self) -> Iterator[tuple[socket.socket, socket.socket]]:
        """Where frames go in, and where they come out."""
        with self.host.run(_opened, "h0") as going, self.beyond.run(_opened, "b0") as coming:
            yield going, coming

    def chosen(self, frames: list[bytes]) -> Counter[int]:
        """How many of the frames went to each next hop."""
        found: Counter[int] = Counter()
        with self.ends() as (going, coming):
            for start in range(0, len(frames), AT_ONCE):
                burst = frames[start : start + AT_ONCE]
                for frame in burst:
                    going.send(frame)
                due = start + len(burst)
                while sum(found.values()) < due:
                    mac = coming.recv(2048)[:6]
                    if mac[:5] == hop_mac(0)[:5]:
                        found[mac[5]] += 1
        return found


def _opened(device: str) -> socket.socket:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    made.bind((device, 0))
    made.settimeout(WAIT_S)
    return made


@pytest.fixture
def router(flavour: Flavour, netns: Callable[[str], Any], veth: Callable[..., None]) -> Router:
    return Router(netns, veth, flavour.version)


def sent(flavour: Flavour, kind: str) -> list[bytes]:
    template = built(flavour, ROUTES[PEER])
    frames = [template.apply(frame) for frame in flow_frames(kind)]
    assert {frame[6:12] for frame in frames} == {OWN_MAC}
    return frames


@pytest.mark.parametrize("flavour", [one for one in FLAVOURS if one.name != "ipip"], ids=name_of)
def test_by_ports_each_next_hop_gets_its_share(router: Router, flavour: Flavour) -> None:
    router.set_policy(flavour.version, LAYER_4)
    for kind in KINDS:
        found = chi_square(router.chosen(sent(flavour, kind)))
        assert found < CHI_SQUARE_MAX, (kind, found)


@pytest.mark.parametrize("flavour", [one for one in FLAVOURS if one.version == 6], ids=name_of)
def test_by_flow_label_each_next_hop_gets_its_share(router: Router, flavour: Flavour) -> None:
    router.set_policy(6, BY_FLOW_LABEL)
    for kind in KINDS:
        found = chi_square(router.chosen(sent(flavour, kind)))
        assert found < CHI_SQUARE_MAX, (kind, found)


@pytest.mark.parametrize("flavour", [Flavour("ipip", 4)], ids=name_of)
def test_ip_in_ip_over_ipv4_is_spread_by_what_looks_inside_only(
    router: Router, flavour: Flavour
) -> None:
    router.set_policy(4, LAYER_4)
    assert len(router.chosen(sent(flavour, "ports, IPv4"))) == 1
    router.set_policy(4, INNER)
    assert chi_square(router.chosen(sent(flavour, "clients, IPv4"))) < CHI_SQUARE_MAX
