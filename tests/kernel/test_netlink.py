# SPDX-License-Identifier: BSD-2-Clause
"""Routes, neighbours and links of the real kernel, with `ip` as the oracle."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import pytest

from pyxdp_gossip import netlink
from pyxdp_gossip.errors import HostError
from pyxdp_gossip.netlink_follower import EVERYTHING, NEIGHBOURS_MAX

PEER4 = IPv4Address("10.71.0.2")
PEER6 = IPv6Address("fd71::2")
FAR4 = IPv4Address("10.99.0.9")
FAR6 = IPv6Address("fd99::9")
GROUP = IPv4Address("239.192.7.2")

# Longer than the kernel takes for anything here; a test that waits for it has failed.
PATIENCE_MS = 10_000


class Pair:
    """Host `a` with device a0 (10.71.0.1) beside host `b` with b0 (10.71.0.2 and .3)."""

    def __init__(self, netns: Callable[[str], Any], veth: Callable[..., None]) -> None:
        self.a, self.b = netns("a"), netns("b")
        veth(self.a, "a0", self.b, "b0")
        self.a.ip("addr add 10.71.0.1/24 dev a0")
        self.a.ip("addr add fd71::1/64 dev a0")
        for last in (2, 3):
            self.b.ip(f"addr add 10.71.0.{last}/24 dev b0")
            self.b.ip(f"addr add fd71::{last}/64 dev b0")

    def show(self, words: str, namespace: Any = None) -> Any:
        return json.loads((namespace or self.a).ip(f"-j -d {words}") or "[]")

    def mac(self, device: str = "b0") -> bytes:
        namespace = self.a if device == "a0" else self.b
        (link,) = self.show(f"link show dev {device}", namespace)
        return bytes.fromhex(link["address"].replace(":", ""))

    def index(self) -> int:
        return int(self.show("link show dev a0")[0]["ifindex"])

    def resolve(self, destination: Any) -> netlink.NextHop | None:
        return self.a.run(netlink.resolve, destination)

    def resolved(self, destination: Any, follower: netlink.Follower) -> netlink.NextHop:
        """Waits on the follower, as the node does, until the next hop is known."""
        while (hop := self.resolve(destination)) is None:
            changed(follower)
        return hop

    def neighbour(self, address: Any) -> dict[str, Any]:
        found = self.show(f"neigh show to {address} dev a0")
        return found[0] if found else {}


@pytest.fixture
def pair(netns: Callable[[str], Any], veth: Callable[..., None]) -> Pair:
    return Pair(netns, veth)


@pytest.fixture
def follower(pair: Pair) -> Any:
    with pair.a.run(netlink.Follower) as made:
        yield made


def readable(descriptor: Any, timeout_ms: int = PATIENCE_MS) -> bool:
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(timeout_ms))


def changed(follower: netlink.Follower) -> frozenset[str]:
    assert readable(follower), "the follower stayed silent"
    return follower.drain()


def wait_for(follower: netlink.Follower, kind: str) -> None:
    while kind not in changed(follower):
        pass


def test_a_link_is_what_ip_link_shows(pair: Pair) -> None:
    (shown,) = pair.show("link show dev a0")
    link = pair.a.run(netlink.link, "a0")
    assert (link.index, link.name, link.mtu) == (shown["ifindex"], "a0", shown["mtu"])
    assert link.mac == pair.mac("a0")
    assert (link.up, link.kind) == (True, shown["linkinfo"]["info_kind"])


def test_rx_queues_are_those_in_use_not_those_allocated(netns: Any) -> None:
    host = netns("q")
    host.ip("link add q0 numrxqueues 4 numtxqueues 4 type veth peer name q1")
    host.exec("ethtool -L q0 rx 3 tx 4")
    assert host.run(netlink.link, "q0").rx_queues == 3


def test_a_link_without_carrier_or_set_down_is_not_up(pair: Pair) -> None:
    pair.b.ip("link set b0 down")
    assert not pair.a.run(netlink.link, "a0").up
    pair.b.ip("link set b0 up")
    pair.a.ip("link set a0 down")
    assert not pair.a.run(netlink.link, "a0").up


def test_an_unknown_interface_is_refused_with_the_list_of_those_that_exist(pair: Pair) -> None:
    for name in ("eth9", "", "x" * 40, "a\0b"):
        with pytest.raises(HostError, match=r"^no interface .*; there are: lo, a0$"):
            pair.a.run(netlink.link, name)


def test_the_first_address_is_global_and_no_group(pair: Pair) -> None:
    pair.a.ip("addr flush dev a0")
    pair.a.ip("addr add 169.254.3.4/16 scope link dev a0")
    with pytest.raises(HostError, match="has no global IPv4 address"):
        pair.a.run(netlink.first_address, "a0")
    pair.a.run(netlink.join_group_address, pair.index(), GROUP)
    with pytest.raises(HostError, match="has no global IPv4 address"):
        pair.a.run(netlink.first_address, "a0")
    pair.a.ip("addr add 10.71.0.7/24 dev a0")
    pair.a.ip("addr add 10.71.0.8/24 dev a0")
    assert pair.a.run(netlink.first_address, "a0") == IPv4Address("10.71.0.7")


@pytest.mark.parametrize(("peer", "own"), [(PEER4, "10.71.0.1"), (PEER6, "fd71::1")])
def test_a_kept_neighbour_gives_the_peers_own_mac(
    pair: Pair, follower: netlink.Follower, peer: Any, own: str
) -> None:
    assert pair.resolve(peer) is None
    kept = pair.a.run(netlink.keep_neighbour, peer)
    hop = pair.resolved(peer, follower)
    assert hop == netlink.NextHop(
        interface_index=pair.index(),
        source_address=ip_address(own),
        source_mac=pair.mac("a0"),
        destination_mac=pair.mac(),
        mtu=1500,
        gateway=None,
    )
    assert kept is not None
    assert kept.managed
    assert "managed" in pair.a.ip(f"neigh show to {peer} dev a0")
    assert pair.a.run(netlink.keep_neighbour, peer) == kept
    pair.a.run(netlink.release_neighbour, kept)
    assert "managed" not in pair.a.ip(f"neigh show to {peer} dev a0")
    assert pair.resolve(peer) == hop


@pytest.mark.parametrize(
    ("far", "prefix", "gateway"), [(FAR4, "10.99.0.0/16", PEER4), (FAR6, "fd99::/16", PEER6)]
)
def test_a_route_to_a_gateway_and_back_changes_the_next_hop(
    pair: Pair, follower: netlink.Follower, far: Any, prefix: str, gateway: Any
) -> None:
    assert pair.resolve(far) is None
    follower.drain()
    pair.a.ip(f"route add {prefix} via {gateway} mtu 1400")
    wait_for(follower, "route")
    pair.a.run(netlink.keep_neighbour, far)
    hop = pair.resolved(far, follower)
    assert (hop.gateway, hop.destination_mac, hop.mtu) == (gateway, pair.mac(), 1400)

    pair.a.ip(f"route replace {prefix} dev a0")
    wait_for(follower, "route")
    assert pair.resolve(far) is None
    pair.a.ip(f"neigh add {far} lladdr 02:00:00:00:99:09 dev a0")
    direct = pair.resolved(far, follower)
    assert (direct.gateway, direct.mtu) == (None, 1500)
    assert direct.destination_mac == bytes.fromhex("020000009909")

    pair.a.ip(f"route replace {prefix} via {gateway} mtu 1400")
    wait_for(follower, "route")
    assert pair.resolve(far) == hop


def test_an_ipv4_route_over_an_ipv6_gateway_gives_that_gateways_mac(
    pair: Pair, follower: netlink.Follower
) -> None:
    pair.a.ip(f"route add 10.99.0.0/16 via inet6 {PEER6} dev a0")
    pair.a.run(netlink.keep_neighbour, FAR4)
    hop = pair.resolved(FAR4, follower)
    assert (hop.gateway, hop.destination_mac) == (PEER6, pair.mac())
    assert hop.source_address == IPv4Address("10.71.0.1")


@pytest.mark.parametrize("kind", ["blackhole", "unreachable", "prohibit", "throw"])
def test_a_route_that_refuses_is_no_next_hop(pair: Pair, kind: str) -> None:
    pair.a.ip(f"route add {kind} 10.99.0.0/16")
    assert pair.resolve(FAR4) is None
    assert pair.a.run(netlink.keep_neighbour, FAR4) is None


def test_local_and_group_addresses_have_no_next_hop(pair: Pair) -> None:
    pair.a.ip("route add default via 10.71.0.2")
    for text in ("127.0.0.1", "10.71.0.1", "::1", "fd71::1", "239.1.1.1", "10.71.0.255"):
        assert pair.resolve(ip_address(text)) is None


@pytest.mark.parametrize("peer", [PEER4, PEER6])
def test_another_mac_of_the_peer_is_seen(pair: Pair, follower: netlink.Follower, peer: Any) -> None:
    pair.a.run(netlink.keep_neighbour, peer)
    pair.resolved(peer, follower)
    follower.drain()
    pair.b.ip("link set b0 address 02:00:00:00:00:77")
    pair.a.ip("neigh flush dev a0")
    pair.a.run(netlink.keep_neighbour, peer)
    wait_for(follower, "neighbour")
    assert pair.resolved(peer, follower).destination_mac == bytes.fromhex("020000000077")


def test_a_managed_neighbour_that_goes_is_asked_for_until_it_comes_back(
    pair: Pair, follower: netlink.Follower
) -> None:
    pair.a.exec("sysctl -qw net.ipv4.neigh.a0.retrans_time_ms=50")
    pair.a.exec("sysctl -qw net.ipv4.neigh.a0.interval_probe_time_ms=100")
    pair.b.exec("sysctl -qw net.ipv4.conf.b0.arp_ignore=8")
    kept = pair.a.run(netlink.keep_neighbour, PEER4)
    assert kept is not None
    assert pair.resolve(PEER4) is None
    pair.b.exec("sysctl -qw net.ipv4.conf.b0.arp_ignore=0")
    assert pair.resolved(PEER4, follower).destination_mac == pair.mac()


def test_a_neighbour_that_is_removed_is_reported_and_unresolved(
    pair: Pair, follower: netlink.Follower
) -> None:
    pair.a.run(netlink.keep_neighbour, PEER4)
    pair.resolved(PEER4, follower)
    follower.drain()
    pair.a.ip(f"neigh del {PEER4} dev a0")
    wait_for(follower, "neighbour")
    assert pair.resolve(PEER4) is None


@pytest.mark.parametrize("peer", [PEER4, PEER6])
def test_a_permanent_entry_of_the_operator_is_left_as_it_is(pair: Pair, peer: Any) -> None:
    pair.a.ip(f"neigh add {peer} lladdr 02:00:00:00:00:55 dev a0 nud permanent")
    before = pair.neighbour(peer)
    kept = pair.a.run(netlink.keep_neighbour, peer)
    assert kept is not None
    assert not kept.managed
    hop = pair.resolve(peer)
    assert hop is not None
    assert hop.destination_mac == bytes.fromhex("020000000055")
    pair.a.run(netlink.release_neighbour, kept)
    assert before["state"] == ["PERMANENT"]
    assert pair.neighbour(peer) == before


def test_an_entry_that_the_operator_manages_is_not_released(pair: Pair) -> None:
    pair.a.ip(f"neigh add {PEER4} dev a0 managed")
    kept = pair.a.run(netlink.keep_neighbour, PEER4)
    assert kept is not None
    assert kept.managed
    pair.a.run(netlink.release_neighbour, kept)
    assert "managed" in pair.a.ip(f"neigh show to {PEER4} dev a0")


def test_an_entry_learned_by_a_routing_daemon_is_left_as_it_is(pair: Pair) -> None:
    pair.a.ip(f"neigh add {PEER4} lladdr 02:00:00:00:00:56 dev a0 extern_learn")
    pair.a.run(netlink.keep_neighbour, PEER4)
    assert "extern_learn" in pair.a.ip(f"neigh show to {PEER4} dev a0")


def test_a_neighbour_on_a_removed_interface_is_released_silently(pair: Pair) -> None:
    kept = pair.a.run(netlink.keep_neighbour, PEER4)
    pair.a.ip("link del a0")
    pair.a.run(netlink.release_neighbour, kept)


def test_the_mtu_of_the_link_bounds_the_next_hop(pair: Pair, follower: netlink.Follower) -> None:
    pair.a.run(netlink.keep_neighbour, PEER4)
    assert pair.resolved(PEER4, follower).mtu == 1500
    follower.drain()
    pair.a.ip("link set a0 mtu 1450")
    wait_for(follower, "link")
    assert pair.resolved(PEER4, follower).mtu == 1450


def test_a_link_that_goes_down_and_up_is_reported_and_the_next_hop_returns(
    pair: Pair, follower: netlink.Follower
) -> None:
    pair.a.run(netlink.keep_neighbour, PEER4)
    before = pair.resolved(PEER4, follower)
    follower.drain()
    pair.a.ip("link set a0 down")
    wait_for(follower, "link")
    assert pair.resolve(PEER4) is None
    pair.a.ip("link set a0 up")
    wait_for(follower, "link")
    while pair.a.run(netlink.keep_neighbour, PEER4) is None:
        changed(follower)
    assert pair.resolved(PEER4, follower) == before


def test_an_address_is_reported(pair: Pair, follower: netlink.Follower) -> None:
    follower.drain()
    pair.a.ip("addr add 10.71.0.77/24 dev a0")
    wait_for(follower, "address")


def test_a_next_hop_object_counts_as_a_route(pair: Pair, follower: netlink.Follower) -> None:
    follower.drain()
    pair.a.ip(f"nexthop add id 5 via {PEER4} dev a0")
    wait_for(follower, "route")


def test_a_change_between_subscription_and_snapshot_is_not_lost(pair: Pair) -> None:
    with pair.a.run(netlink.Follower) as follower:
        pair.a.ip("route add 10.99.0.0/16 via 10.71.0.2")
        wait_for(follower, "route")


def test_routine_probes_of_a_neighbour_are_no_change(
    pair: Pair, follower: netlink.Follower
) -> None:
    for namespace, device in ((pair.a, "a0"), (pair.b, "b0")):
        namespace.exec(f"sysctl -qw net.ipv6.conf.{device}.disable_ipv6=1")
    mac = pair.mac().hex(":")
    follower.drain()
    pair.a.ip(f"neigh replace {PEER4} lladdr {mac} dev a0 nud reachable")
    wait_for(follower, "neighbour")
    for state in ("stale", "reachable", "delay", "reachable"):
        pair.a.ip(f"neigh replace {PEER4} lladdr {mac} dev a0 nud {state}")
    pair.a.ip("link set a0 alias marker")
    seen: set[str] = set()
    while "link" not in seen:
        seen |= changed(follower)
    assert "neighbour" not in seen
    pair.a.ip(f"neigh replace {PEER4} lladdr 02:00:00:00:00:57 dev a0 nud reachable")
    wait_for(follower, "neighbour")


def test_an_overflow_is_reported_as_everything_changed(pair: Pair, tmp_path: Any) -> None:
    follower = pair.a.run(netlink.Follower)
    with follower:
        # The thread is held at its first report while the kernel's queue runs over.
        with follower._lock:
            batch = tmp_path / "routes"
            lines = (f"route add 10.80.{n >> 8 & 255}.{n & 255}/32 dev a0" for n in range(20000))
            batch.write_text("\n".join(lines) + "\n")
            pair.a.ip(f"-batch {batch}")
        seen: set[str] = set()
        while seen != EVERYTHING:
            seen |= changed(follower)


def test_the_memory_of_neighbours_is_bounded(pair: Pair, follower: netlink.Follower) -> None:
    follower._macs.update({(9, str(n)): "" for n in range(NEIGHBOURS_MAX)})
    pair.a.ip(f"neigh add {PEER4} lladdr 02:00:00:00:00:57 dev a0")
    wait_for(follower, "neighbour")
    assert len(follower._macs) < NEIGHBOURS_MAX


def test_a_follower_outlives_its_namespace_and_closes_twice(pair: Pair) -> None:
    follower = pair.a.run(netlink.Follower)
    pair.a.remove()
    pair.b.remove()
    follower.close()
    follower.close()
    assert follower.drain() == frozenset()
    assert follower.fileno() == -1


def test_a_follower_leaves_no_descriptor_and_no_thread(pair: Pair) -> None:
    pair.a.run(netlink.Follower).close()
    before = set(os.listdir("/proc/self/fd"))
    for _round in range(5):
        pair.a.run(netlink.Follower).close()
    assert set(os.listdir("/proc/self/fd")) == before
    assert "xg-netlink" not in {thread.name for thread in threading.enumerate()}


def test_a_group_address_is_joined_by_the_interface_itself(pair: Pair) -> None:
    index = pair.index()
    for _again in range(2):
        pair.a.run(netlink.join_group_address, index, GROUP)
    assert f"inet  {GROUP}" in pair.a.ip("maddr show dev a0")
    assert "autojoin" in pair.a.ip("addr show dev a0")
    for _again in range(2):
        pair.a.run(netlink.leave_group_address, index, GROUP)
    assert str(GROUP) not in pair.a.ip("maddr show dev a0")
    assert str(GROUP) not in pair.a.ip("addr show dev a0")


def test_a_group_address_without_autojoin_is_refused_with_advice(pair: Pair) -> None:
    pair.a.ip(f"addr add {GROUP}/32 dev a0")
    with pytest.raises(HostError, match="without autojoin; remove it"):
        pair.a.run(netlink.join_group_address, pair.index(), GROUP)


def test_a_group_on_a_missing_interface_is_refused_and_left_silently(pair: Pair) -> None:
    with pytest.raises(HostError, match=r"cannot join group 239\.192\.7\.2 on interface 999"):
        pair.a.run(netlink.join_group_address, 999, GROUP)
    pair.a.run(netlink.leave_group_address, 999, GROUP)
    with pytest.raises(ValueError, match="not a multicast address"):
        pair.a.run(netlink.join_group_address, 999, PEER4)


UNPRIVILEGED = """
import os, sys
from ipaddress import IPv4Address
from pyxdp_gossip import netlink
from pyxdp_gossip.errors import HostError
os.setgid(65534); os.setuid(65534)
for call in (
    lambda: netlink.join_group_address(1, IPv4Address("239.192.7.2")),
    lambda: netlink.attach_ingress_filter(1, 0, "xg"),
):
    try:
        call()
    except HostError as error:
        print(error)
print(netlink.link("lo").name)
"""


def test_without_privilege_the_capability_is_named_and_reading_works(pair: Pair) -> None:
    done = subprocess.run(
        ["ip", "netns", "exec", pair.a.name, sys.executable, "-c", UNPRIVILEGED],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    join, attach, name = done.stdout.splitlines()
    assert join.startswith("cannot join group 239.192.7.2")
    assert attach.startswith("cannot attach the ingress filter 'xg'")
    assert join.endswith("CAP_NET_ADMIN is missing; run as root")
    assert attach.endswith("CAP_NET_ADMIN is missing; run as root")
    assert name == "lo"
