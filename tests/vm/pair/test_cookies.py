# SPDX-License-Identifier: BSD-2-Clause
"""SYN cookies of two kernels: each has a secret of its own, as network namespaces have not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.vm.pair.world import VIP, Change, Host, Pair, deliver

ALWAYS, BY_DEFAULT = 2, 1


@contextmanager
def cookies(pop: Pair) -> Iterator[None]:
    """Both kernels answer each SYN with a cookie, and keep nothing."""
    for host in pop.hosts:
        host.run(f"sysctl -qw net.ipv4.tcp_syncookies={ALWAYS}")
    try:
        yield
    finally:
        for host in pop.hosts:
            host.run(f"sysctl -qw net.ipv4.tcp_syncookies={BY_DEFAULT}")


@contextmanager
def only_syns_pass(pop: Pair) -> Iterator[None]:
    """The router drops all else that the client sends to the VIP."""
    pop.router.exec("nft add table ip shut")
    pop.router.exec("nft add chain ip shut f { type filter hook forward priority 0 ; }")
    pop.router.exec(f"nft add rule ip shut f ip daddr {VIP} tcp flags & syn == 0 drop")
    try:
        yield
    finally:
        pop.router.exec("nft delete table ip shut")


def counted(host: Host) -> dict[str, int]:
    """TcpExt of the kernel."""
    lines = host.ask("read", path="/proc/net/netstat").splitlines()
    names, values = (line.split()[1:] for line in lines if line.startswith("TcpExt:"))
    return dict(zip(names, map(int, values), strict=True))


def risen(host: Host, before: dict[str, int]) -> tuple[int, int]:
    """Cookies that came back and were good, and those that were not."""
    now = counted(host)
    good, bad = (now[name] - before[name] for name in ("SyncookiesRecv", "SyncookiesFailed"))
    return good, bad


@pytest.mark.core
def test_a_cookie_that_strays_is_flooded_and_completes_where_it_was_made(pop: Pair) -> None:
    with cookies(pop):
        for host in pop.hosts:  # each takes its own
            before = counted(host)
            pop.route(host)
            with pop.connect() as connection:
                deliver(connection, b"here")
            assert risen(host, before) == (1, 0)
        before_a, before_b = (counted(host) for host in pop.hosts)
        a, b = (Change(host) for host in pop.hosts)
        pop.route(pop.b)
        with only_syns_pass(pop):
            connection = pop.connect()  # its last segment is lost at the router
            pop.route(pop.a)
        with connection:
            deliver(connection, b"the cookie comes with this")
            a.look()
            b.look()
            assert a.program["miss_flooded"] >= 1
            assert a.program["passed_known"] == 0
            assert b.program["delivered_flood"] >= 1
            assert risen(pop.a, before_a) == (0, 0), "A's kernel saw nothing of it"
            assert risen(pop.b, before_b) == (1, 0)
            deliver(connection, bytes(100_000))
            assert a.look().program["stray_forwarded"] > 0, "known by gossip now"
