# SPDX-License-Identifier: BSD-2-Clause
"""A host's link fails and comes back under traffic: every connection lives, its own included."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pyxdp_gossip.popbox import Box, names
from pyxdp_gossip.popbox.crowd import Crowd
from tests.box.pop import AGENTS, Pop, assert_nothing_broke, change_hops, nothing_misdelivered
from tests.box.traffic import wait_for

MakeBox = Callable[..., Box]
VICTIM = 2


def set_link(box: Box, state: str) -> None:
    """The victim's link, and the routes that an operator's network set-up puts back."""
    lines = [f"link set eth0 {state}"]
    if state == "up":
        address = names.host_address(VICTIM)
        lines += [
            f"addr replace {address.ipv6}/64 dev eth0 nodad",
            f"neigh replace {names.ROUTER4} lladdr {names.ROUTER_MAC} dev eth0 nud permanent",
            f"neigh replace {names.ROUTER6} lladdr {names.ROUTER_MAC} dev eth0 nud permanent",
            f"route replace default via {names.ROUTER4}",
            f"route replace ::/0 via {names.ROUTER6} dev eth0",
        ]
    text = "".join(f"{line}\n" for line in lines)
    box.run_in(box.host_namespace(VICTIM), ["ip", "-batch", "-"], text)


@pytest.mark.parametrize("plane", ["xsk", "xdp"])
def test_a_link_that_fails_and_returns_costs_no_connection(make_box: MakeBox, plane: str) -> None:
    box = make_box(hosts=3)
    pop = Pop(box, AGENTS, {"dataplane": {"plane": plane}})
    try:
        with nothing_misdelivered(box), Crowd(box, connections=60, seed=1) as crowd:
            crowd.wait_ready()
            change_hops(box, 2, 1, crowd)
            set_link(box, "down")
            box.set_next_hops([1, 3])
            wait_for(
                "the others miss it",
                lambda: box.agent_stats(1)["members"][str(VICTIM)] not in ("alive", "suspect"),
            )
            assert box.agent_stats(VICTIM)["interface"] == "down"
            crowd.wait_report()
            set_link(box, "up")
            wait_for(
                "the others have it again",
                lambda: box.agent_stats(1)["members"][str(VICTIM)] == "alive",
            )
            forwarded = pop.count(VICTIM, "stray_forwarded")
            change_hops(box, 4, 2, crowd)
            assert pop.count(VICTIM, "stray_forwarded") > forwarded
            assert_nothing_broke(crowd.finish())
    finally:
        pop.close()
