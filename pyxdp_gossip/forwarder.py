# SPDX-License-Identifier: BSD-2-Clause
"""The forwarder for library users: services, tables and templates in, frames and endings out."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Final, Self

from pyxdp_gossip import _native, explanation
from pyxdp_gossip._native import OwnerStates, SessionTable
from pyxdp_gossip.explanation import Explanation
from pyxdp_gossip.quic_lb import QuicLb
from pyxdp_gossip.session import Service, Session, packed16
from pyxdp_gossip.templates import HeaderTemplate
from pyxdp_gossip.tunnel_receiver import TunnelReceiver

HOST_MAX: Final = 65000  # XG_HOST_MAX
SLOT_MAX: Final = 65534
PROTOCOLS: Final = {"tcp": 6, "udp": 17}
SERVICE: Final = struct.Struct("<16s2sBxHH")
"""`struct xg_service` of csrc/services.h."""


def session_key(session: Session, services: Mapping[int, Service]) -> bytes:
    """The key of a session in the `SessionTable` of its family.

    Args:
        services: slot → service; a session's slot is its service's.

    Returns:
        (8,) bytes for IPv4, (24,) for IPv6: for `SessionTable.put`, `get` and `remove`; joined,
        for `find_burst`.

    Raises:
        KeyError: the session's service has no slot.
    """
    service = session.service
    for slot, candidate in services.items():
        if candidate == service:
            pack = _native.pack_key4 if session.family == 4 else _native.pack_key6
            return pack(session.client.packed, session.client_port, slot)
    raise KeyError(f"{service} is none of the services")


class Forwarder(_native.Forwarder):
    """Decides and encapsulates bursts of frames on plain buffers, as the data path does.

    Needs no privilege, asks no kernel: what it decides is right for frames of which this host's
    sockets know nothing. `Forwarder.build()` makes one of Python objects. The tables, the owners
    and their activity are read at each burst, so they may change. Not thread-safe.

    Args:
        host: this host's id, 0..65000.
        table4, table6: the session tables of the two families.
        owners: the owners' states, the tables' own.
        templates: (n * 128,) bytes of `struct xg_template`; kept, and read at each burst.
        services: (n * 24,) bytes of `struct xg_service`; kept.
        flood_template: index into `templates`, or None: misses are dropped.
        own_is_known: sessions that the tables give this host are passed, as if its kernel knew
            them.
        quic: of `pack_layouts`, the layouts of the QUIC services' connection ids; None: no id
            names anybody.
        receiver: opens tunnel packets for this host; None: they are packets as any others.

    Raises:
        ValueError: a buffer holds half a struct.
    """

    forward = _native.Forwarder.forward  # named here for the API reference
    fragments = _native.Forwarder.fragments
    counters = _native.Forwarder.counters

    @classmethod
    def build(
        cls,
        host: int,
        services: Mapping[int, Service],
        table4: SessionTable,
        table6: SessionTable,
        owners: OwnerStates,
        templates: Mapping[int, HeaderTemplate],
        *,
        flood: HeaderTemplate | None = None,
        own_is_known: bool = False,
        quic: Iterable[QuicLb] = (),
        receiver: TunnelReceiver | None = None,
    ) -> Self:
        """Makes a forwarder, and writes into `owners` which template leads to which host.

        Args:
            host: this host's id, 0..65000.
            services: slot → service; the slots are those of the tables' keys (`session_key`).
            table4, table6: the session tables, which share `owners`.
            owners: a host whose sessions shall count must be active in it.
            templates: host id → the headers that lead to it.
            flood: the headers to all hosts, for misses; None: misses are dropped.
            own_is_known: sessions that the tables give this host are passed, as if its kernel
                knew them.
            quic: layouts of the connection ids of services that have `quic`.
            receiver: opens tunnel packets for this host; None: they are packets as any others.

        Raises:
            ValueError: a host id, slot or template is out of range.
        """
        if not 0 <= host <= HOST_MAX:
            raise ValueError(f"host is {host}, expected 0..{HOST_MAX}")
        packed = b"".join(template.pack() for template in templates.values())
        for index, peer in enumerate(templates):
            owners.set_template(peer, index)
        if flood is not None:
            packed += flood.pack()
        flood_index = None if flood is None else len(templates)
        return cls(
            host, table4, table6, owners, packed, pack_services(services), flood_index,
            own_is_known, pack_layouts(quic), receiver=receiver,
        )  # fmt: skip

    def explain(self, frame: bytes, *, kernel_knows: bool | None = None) -> Explanation:
        """What becomes of a frame, and why; see `pyxdp_gossip.explain`. Counts nothing.

        Args:
            frame: bytes from the Ethernet header on.
            kernel_knows: what this host's kernel would say; None: nobody was asked.
        """
        return explanation.explain(frame, self, kernel_knows=kernel_knows)


def pack_services(services: Mapping[int, Service]) -> bytes:
    """(n * 24,) bytes of `struct xg_service`, of slot → service.

    Raises:
        ValueError: a slot is out of range.
    """
    return b"".join(_pack_service(slot, service) for slot, service in services.items())


def pack_layouts(layouts: Iterable[QuicLb]) -> bytes:
    """(8 * 184,) bytes of `struct xg_quic_lb`: each layout at the place of its `config_id`."""
    packed = {
        one.config_id: _native.pack_quic_layout(one.server_id_length, one.nonce_length, one.key)
        for one in layouts
    }
    empty = bytes(_native.QUIC_LAYOUT_BYTES)
    return b"".join(packed.get(place, empty) for place in range(_native.QUIC_LAYOUTS))


def _pack_service(slot: int, service: Service) -> bytes:
    if not 0 <= slot <= SLOT_MAX:
        raise ValueError(f"slot of {service} is {slot}, expected 0..{SLOT_MAX}")
    port = struct.pack("!H", service.port)
    return SERVICE.pack(
        packed16(service.vip), port, PROTOCOLS[service.protocol], slot, service.quic
    )
