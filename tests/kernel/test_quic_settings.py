# SPDX-License-Identifier: BSD-2-Clause
"""What a host's programs are told of QUIC, at its start, over a restart, and live."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from scapy.packet import Raw

from pyxdp_gossip.live_explanation import explain_on_host
from pyxdp_gossip.quic_lb import QuicLb
from pyxdp_gossip.session import Service
from tests.golden import encapsulated, ethernet, ip, udp
from tests.golden_quic import PEERS_ID, packet, short
from tests.golden_world import PEER, QUIC_PORT, ROUTES, VIPS, State
from tests.kernel import test_adoption
from tests.kernel.dataplane_fixture import HostUnderTest
from tests.kernel.test_adoption import successor

FURTHER_PORT = 4434
TO_PEER = bytes(packet(4, short(PEERS_ID)))

host = test_adoption.host


def services_with(host: HostUnderTest, *, quic: bool) -> dict[Service, int]:
    """Those of the host, with and without ids."""
    services = host.plane.settings.services
    return {
        replace(one, quic=quic and one.port == QUIC_PORT): slot for one, slot in services.items()
    }


def test_a_restart_takes_quic_away_and_gives_it_and_keeps_the_tables(host: HostUnderTest) -> None:
    assert host.run(TO_PEER).ending == "quic_forwarded"
    with successor(host, services=services_with(host, quic=False)) as after:
        assert after.plane.adopted
        assert after.run(TO_PEER).ending == "passed_udp_new"
        after.namespace.run(after.plane.attach_packets)
        with successor(after, services=services_with(host, quic=True)) as third:
            assert third.plane.adopted
            assert third.run(TO_PEER).ending == "quic_forwarded"


def test_a_restart_changes_the_layouts(host: HostUnderTest) -> None:
    layout = QuicLb(5, 2, 4, b"sixteen byte key")
    changed = bytes(packet(4, short(layout.encode(PEER, b"once"))))
    assert host.run(changed).ending == "passed_udp_new"
    with successor(host, quic=(layout,)) as after:
        assert after.plane.adopted
        assert after.run(changed).ending == "quic_forwarded"
        assert after.run(TO_PEER).ending == "passed_udp_new"


def test_a_further_service_with_quic_comes_live(host: HostUnderTest) -> None:
    header = ip(4) / udp(State.ABSENT, dport=FURTHER_PORT)
    frame = bytes(ethernet() / header / Raw(short(PEERS_ID)))
    assert host.run(frame).ending == "passed_no_service"
    further: Any = {Service(VIPS[4], FURTHER_PORT, "udp", quic=True): 9}
    host.namespace.run(host.plane.change_services, {**host.plane.settings.services, **further})
    assert host.run(frame).ending == "quic_forwarded"


def test_a_packet_is_explained_by_the_live_layouts(host: HostUnderTest) -> None:
    said = host.namespace.run(explain_on_host, host.plane, TO_PEER)
    assert (said.ending, said.output) == ("quic_forwarded", encapsulated(TO_PEER, ROUTES[PEER]))
    assert [step.name for step in said.steps][4:] == ["id_other", "owner_headers", "fits"]
    assert "Whose connection is it by its QUIC connection id? Host 4's." in str(said)
