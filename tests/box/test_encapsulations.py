# SPDX-License-Identifier: BSD-2-Clause
"""A POP that speaks each tunnel format, over IPv4 and over IPv6: its connections live."""

from collections.abc import Callable

import pytest

from pyxdp_gossip.popbox import Box
from pyxdp_gossip.popbox.agents import Settings
from pyxdp_gossip.popbox.crowd import Crowd
from tests.box.pop import AGENTS, Pop, assert_nothing_broke, change_hops, nothing_misdelivered
from tests.box.table_truth import wait_truth
from tests.box.traffic import Connection, session_of

MakeBox = Callable[..., Box]

HOSTS = 3
CONNECTIONS = 40
GROUPS = {4: "239.192.7.1:7946", 6: "[ff05::7:1]:7946"}
# GUE over IPv4 is what all other tests use; each pair of the others is in test_formats_bpf.py.
WAYS = [("gue", 6), ("geneve", 6), ("vxlan", 4), ("ipip", 6)]


def settings(encapsulation: str, version: int, plane: str) -> Settings:
    """The agents' configuration."""
    return {
        "gossip": {"group": GROUPS[version]},
        "dataplane": {"encapsulation": encapsulation, "vni": 7, "plane": plane},
        "table": {"sessions_v4": 4096, "sessions_v6": 4096},
    }


@pytest.mark.parametrize(("encapsulation", "version"), WAYS)
def test_connections_of_both_families_live_in_each_format(
    make_box: MakeBox, encapsulation: str, version: int
) -> None:
    plane = "xdp" if encapsulation == "vxlan" else "xsk"
    pop = Pop(make_box(hosts=HOSTS), AGENTS, settings(encapsulation, version, plane))
    box = pop.box
    with nothing_misdelivered(box), Crowd(box, CONNECTIONS, seed=version) as crowd:
        crowd.wait_ready()
        assert wait_truth(box) == CONNECTIONS
        change_hops(box, 3, version, crowd)
        box.set_next_hops([1])
        made = [Connection(box, family).connect() for family in (4, 6)]
        assert [one.ask() for one in made] == [1, 1]
        pop.wait_owner(session_of(made[0].port), 1)
        box.set_next_hops([2])
        assert [one.ask() for one in made] == [1, 1], "strays"
        pop.forget(2, session_of(made[0].port))
        assert made[0].ask() == 1, "a flood"
        assert pop.count(2, "miss_flooded") > 0
        assert pop.count(1, "delivered_flood") > 0
        box.set_next_hops(box.host_ids)
        change_hops(box, 2, version + 1, crowd)
        assert pop.count_all("delivered_stray") > 0
        assert_nothing_broke(crowd.finish())
        for one in made:
            one.close()
    refused = ("tunnel_malformed", "tunnel_bad_cookie", "tunnel_bad_source", "no_checksum")
    assert pop.count_all(*refused) == 0
    pop.close()
