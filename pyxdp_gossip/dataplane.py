# SPDX-License-Identifier: BSD-2-Clause
"""The data path of one host: programs, maps and what is attached, behind one context manager."""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final, Self

from pyxdp_gossip import bpf_object, netlink
from pyxdp_gossip._native import (
    QUEUE_BYTES,
    QUEUES,
    EventRing,
    FloodList,
    OwnerStates,
    SessionTable,
    XskLoop,
    give_up_queues,
    sum_counters,
)
from pyxdp_gossip.attachments import Attached, clear_predecessor
from pyxdp_gossip.bpf_object import AdoptionError, BpfMap, BpfObject, PinnedLink
from pyxdp_gossip.dataplane_settings import (
    ATTACH_MODES,
    FILTER_NAME,
    NO_TEMPLATE,
    PEER,
    RING_BYTES,
    VIEWS,
    DataplaneSettings,
    PeerCookies,
    buckets_for,
    pack_config,
    unpack_config,
    xsk_mode,
)
from pyxdp_gossip.encapsulation import ENCAPSULATIONS
from pyxdp_gossip.forwarder import Forwarder, pack_services
from pyxdp_gossip.mss_clamp import clamp_listeners
from pyxdp_gossip.pins import (
    AdoptedHost,
    MapPins,
    Stamp,
    active_hosts,
    forget_others,
    remove_folder,
)
from pyxdp_gossip.receiver_maps import receiver_of
from pyxdp_gossip.service_array import ARRAY_BYTES, write_layouts, write_services
from pyxdp_gossip.session import Address, KernelView, Service, packed16
from pyxdp_gossip.stats import NAMES, Statistics
from pyxdp_gossip.template_slots import FLOOD, TemplateSlots
from pyxdp_gossip.templates import HeaderTemplate
from pyxdp_gossip.xsk import Umem, XskSocket
from pyxdp_gossip.xsk_plane import XskPlane

NS_PER_MS: Final = 1_000_000


class Dataplane:
    """Programs, maps, tables and links of one host.

    `open()` loads everything, `attach_sessions()` and `attach_packets()` put it to work,
    `detach()` takes it off; a process that dies between leaves it at work, and the next one
    takes its place. Everything runs in the caller's network namespace. Not thread-safe.

    Attributes:
        adopted: the tables are those of an agent before, and so are the templates and peers of
            `adopted_hosts`.
        rebuilt_because: why they are not, though there was an agent before.

    Raises:
        HostError: a missing privilege, kernel feature, interface or file system.
    """

    def __init__(self, settings: DataplaneSettings) -> None:
        self.settings = settings
        self._objects: list[BpfObject] = []
        self._maps: dict[str, BpfMap] = {}
        self._attached = Attached()
        self._flood = FloodList()
        self._far: frozenset[int] = frozenset()
        self._mac = bytes(6)
        self._plane: XskPlane | None = None
        self._peer_addresses: dict[int, Address] = {}
        self._buckets = buckets_for(settings.sessions_v4), buckets_for(settings.sessions_v6)
        self._pins = MapPins(settings.pins, Stamp.of(settings, *self._buckets))
        self.adopted_hosts: list[AdoptedHost] = []
        self.adopted = False
        self.rebuilt_because = ""

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *exc: object) -> None:
        self.detach()
        self.close()

    # ---- life ----

    def open(self) -> None:
        """Loads the programs; goes on with the maps of an agent before, or makes new ones."""
        settings = self.settings
        self._link = netlink.link(settings.interface)
        netlink.ensure_bpffs(settings.pins)
        try:
            try:
                with self._pins.found() as found:
                    self._load(found)
            except AdoptionError as reason:
                self._unload()
                self.rebuilt_because = str(reason)
                self._load({})
            write_services(self._services, self.settings.by_slot)
            if not self.adopted:
                self._pins.keep(self._maps)
        except BaseException:
            self.close()
            self._remove_pins()
            raise

    def _load(self, adopted: Mapping[str, BpfMap]) -> None:
        redirect = self._redirect(adopted)
        self._objects.append(redirect)
        self._objects.append(BpfObject("sessions", shared=redirect.maps))
        self._maps = dict(redirect.maps)
        self._open_memory(bool(adopted))
        flood = self._go_on() if adopted else NO_TEMPLATE
        self._write_config(flood, self._link.mac)
        self.adopted = bool(adopted)

    def _redirect(self, maps: Mapping[str, BpfMap]) -> BpfObject:
        buckets4, buckets6 = self._buckets
        rooms = {"sessions4": buckets4 + 1, "sessions6": buckets6 + 1}
        return BpfObject("redirect", max_entries=rooms, adopted=maps)

    def _open_memory(self, adopt: bool) -> None:
        self.owners = OwnerStates(memory=self._maps["owners"].memory())
        self.table4 = self._open_table(4, adopt)
        self.table6 = self._open_table(6, adopt)
        self._templates = memoryview(self._maps["templates"].memory())
        self._slots = TemplateSlots(self._templates)
        self._config = memoryview(self._maps["config"].memory())
        self._services = memoryview(self._maps["services"].memory())[:ARRAY_BYTES]
        self._quic = write_layouts(self._maps["quic_lb"].memory(), self.settings.quic)
        self._queues = memoryview(self._maps["queues"].memory())[: QUEUES * QUEUE_BYTES]
        self._heartbeat = self._config[:8].cast("Q")
        self.socket_events = EventRing(self._maps["socket_events"].fd, RING_BYTES)
        self.packet_events = EventRing(self._maps["packet_events"].fd, RING_BYTES)

    def _open_table(self, family: int, adopt: bool) -> SessionTable:
        memory = self._maps[f"sessions{family}"].memory()
        buckets = self._buckets[0 if family == 4 else 1]
        try:
            return SessionTable(family, buckets, self.owners, memory=memory, adopt=adopt)
        except OSError as error:
            if error.errno == errno.EUCLEAN:
                raise AdoptionError(f"the pinned map sessions{family} is damaged") from None
            raise

    def _go_on(self) -> int:
        """Makes adopted maps this agent's own; the flood template goes on and is returned."""
        owners, peers, own = self.owners, self._maps["peers"], self.settings.host
        hosts = active_hosts(owners, peers, self._slots, self.settings)
        flood = unpack_config(self._config).flood_template
        if self.settings.flood_group is None:
            flood, self._far = NO_TEMPLATE, frozenset(one.host for one in hosts)
        places = {one.host: one.template for one in hosts} | {FLOOD: flood}
        self._slots.take_over(
            {host: place for host, place in places.items() if place not in (None, NO_TEMPLATE)}
        )
        for table in (self.table4, self.table6):
            table.renew(time.monotonic_ns() // NS_PER_MS)
        forget_others(owners, peers, hosts, own)
        self._peer_addresses = {one.host: one.address for one in hosts}
        self.adopted_hosts = hosts
        return flood

    def _unload(self) -> None:
        for bpf in reversed(self._objects):
            bpf.close()
        self._objects.clear()

    def _write_config(self, flood_template: int, mac: bytes) -> None:
        copies = self._slots.of_hosts(self._far)
        netns = netlink.netns_cookie()
        packed = pack_config(self.settings, netns, flood_template, mac, copies, self._link.mtu)
        self._config[8 : len(packed)] = packed[8:]
        self._mac = mac
        self._flood.set(None if flood_template == NO_TEMPLATE else flood_template, copies)

    def close(self) -> None:
        """Frees what this process holds; what is attached stays attached. Repeatable."""
        self._close_plane()
        for link in (self._attached.xdp, self._attached.sockops):
            if link:
                link.close()
        self._unload()

    # ---- attaching ----

    @property
    def has_predecessor(self) -> bool:
        """True if a crashed or killed agent's program is still at work on the interface."""
        link = PinnedLink.find(self.settings.pins / "xdp")
        if link is None:
            return False
        try:
            return link.ifindex == self._link.index
        finally:
            link.close()

    @property
    def interface_index(self) -> int:
        """Of the interface that the XDP program is for."""
        return self._link.index

    def attach_sessions(self) -> None:
        """Attaches the sockops program; sockets that open from now on are told."""
        pin = self.settings.pins / "sockops"
        fd = self._objects[1].program_fd("xg_sessions")
        old = PinnedLink.find(pin)
        self._attached.sockops = bpf_object.attach_sockops(pin, fd, self.settings.cgroup)
        clamp_listeners(self._objects[1], self.settings.mss)
        if old:  # only now: the new one may be on another cgroup, and no socket is missed
            old.detach()

    def attach_packets(self) -> str:
        """Attaches the XDP program, or puts it in a predecessor's place, and starts the loops.

        Returns: "native" or "skb".
        """
        mode = self._attach_program()
        self._pins.put_to_use(self._maps)
        give_up_queues(self._queues)  # of loops that died with their process
        if self.settings.plane == "xsk":
            self._open_plane(mode)
        return mode

    def _attach_program(self) -> str:
        settings, index = self.settings, self._link.index
        pin = settings.pins / "xdp"
        fd = self._objects[0].program_fd("xg_redirect")
        if settings.flood_group:
            netlink.join_group_address(index, settings.flood_group)
            self._attached.group = settings.flood_group
        if self._link.kind == "veth":
            filter_fd = self._objects[0].program_fd("xg_host_type")
            netlink.attach_ingress_filter(index, filter_fd, FILTER_NAME)
            self._attached.filter = True
        old = PinnedLink.find(pin)
        if old and old.ifindex == index and old.replace(fd):
            self._attached.xdp = old
            self._attached.mode = bpf_object.attached_mode(index) or "native"
            return self._attached.mode
        if old:
            clear_predecessor(old, index, settings.flood_group)
        wanted = ATTACH_MODES[settings.mode]
        link, mode = bpf_object.attach_xdp(pin, fd, index, wanted)
        self._attached.xdp, self._attached.mode = link, mode
        return mode

    def _open_plane(self, attached: str) -> None:
        link, mode = self._link, xsk_mode(self.settings.mode, attached, self._link.kind)
        self._plane = XskPlane(
            link.name, min(link.rx_queues, link.tx_queues), link.mtu, mode, self._maps["xsks"],
            self._make_loop, cpus=self.settings.cpus, busy_poll=self.settings.busy_poll,
        )  # fmt: skip
        self._plane.open()

    def _make_loop(self, number: int, socket: XskSocket, umem: Umem, driver_frames: int) -> XskLoop:
        settings, rings = self.settings, socket.addresses
        return XskLoop(
            host=settings.host, table4=self.table4, table6=self.table6, owners=self.owners,
            templates=self._templates, services=self._services, quic=self._quic,
            flood=self._flood, address=packed16(settings.address),
            encapsulation=ENCAPSULATIONS[settings.encapsulation].number,
            tunnel_port=settings.tunnel_port, too_big_rate_pps=settings.too_big_rate_pps,
            queue=self._queues[number * QUEUE_BYTES : (number + 1) * QUEUE_BYTES],
            fill=rings.fill, completion=rings.completion, rx=rings.rx, tx=rings.tx,
            umem=umem.address, first_frame=0, frames=umem.frames, frame_size=umem.frame_size,
            driver_frames=driver_frames, fd=socket.fd, busy_poll=settings.busy_poll,
            buffers=socket.buffers,
            keep=(socket, umem),
        )  # fmt: skip

    def _close_plane(self) -> None:
        plane, self._plane = self._plane, None
        if plane:
            plane.close()

    def check(self, link: netlink.Link | None = None) -> None:
        """As XskPlane.check, by what the interface has now; without a plane nothing is checked."""
        if self._plane:
            self._plane.check(min(link.rx_queues, link.tx_queues) if link else None)

    def renew_program(self) -> None:
        """Puts a copy of the XDP program in its place: a driver that made new queues without it
        puts that on all of them."""
        if link := self._attached.xdp:
            with contextlib.closing(self._redirect(self._maps)) as copy:
                link.replace(copy.program_fd("xg_redirect"))

    def adopt_predecessor(self) -> None:
        """Makes a crashed agent's program, if it is at work still, this process's to detach."""
        if self._attached.xdp is None and self.has_predecessor:
            self._attached.xdp = PinnedLink.find(self.settings.pins / "xdp")
            self._attached.group = self.settings.flood_group
            self._attached.filter = self._link.kind == "veth"

    @property
    def mode(self) -> str:
        """How the XDP program is attached: "native", "skb", or "" before it is."""
        return self._attached.mode

    @property
    def forwarding(self) -> str:
        """What forwards: the AF_XDP loops, "zero-copy", "copy" or "skb"; or "xdp"."""
        return self._plane.mode if self._plane else "xdp"

    @property
    def has_interface(self) -> bool:
        """The interface is there, and is the one with the XDP program, not another of its index."""
        index, link = self._link.index, self._attached.xdp
        return netlink.is_there(index) and (link is None or link.ifindex == index)

    def lose_interface(self) -> None:
        """Gives up what was attached to the interface, which is gone, a predecessor's program
        included; the sockops program stays."""
        self._close_plane()
        attached = self._attached
        link = attached.xdp or PinnedLink.find(self.settings.pins / "xdp")
        if link and link.ifindex in (0, self._link.index):
            link.remove()
        self._attached = Attached(sockops=attached.sockops)

    def find_interface(self) -> None:
        """Takes the interface of that name as this host's, after it was made anew.

        Raises:
            HostError: there is none.
        """
        self._link = netlink.link(self.settings.interface)

    def detach(self) -> None:
        """Takes everything off the interface and the cgroup, pins included. Repeatable."""
        self._close_plane()  # the sockets first: the other order has crashed kernels
        attached, self._attached = self._attached, Attached()
        for link in (attached.xdp, attached.sockops):
            if link:
                link.remove()
        if attached.filter:
            netlink.detach_ingress_filter(self._link.index, FILTER_NAME)
        if attached.group:
            netlink.leave_group_address(self._link.index, attached.group)
        self._remove_pins()

    def _remove_pins(self) -> None:
        """But not the maps of a program that goes on, for the next agent to go on with."""
        if not (self._pins.in_use and (self.settings.pins / "xdp").exists()):
            self._pins.remove()
        remove_folder(self.settings.pins)

    def abandon(self) -> None:
        """Leaves what is attached at work beyond this process; a later `detach` does nothing.
        The loops end, and the XDP program forwards by itself."""
        self._close_plane()
        for link in (self._attached.xdp, self._attached.sockops):
            if link:
                link.close()
        self._attached = Attached()

    def change_services(self, services: Mapping[Service, int]) -> None:
        """Takes further services while packets flow; those that are there keep their slots."""
        self.settings = replace(self.settings, services=dict(services))
        write_services(self._services, self.settings.by_slot)
        self._pins.change_stamp(self._maps, Stamp.of(self.settings, *self._buckets))

    # ---- hosts ----

    def heartbeat(self, now: int) -> None:
        """Says that the agent runs; `now` in ns of CLOCK_MONOTONIC."""
        self._heartbeat[0] = now

    def set_own_mac(self, mac: bytes) -> None:
        """(6,) bytes: what is stripped here gets as destination."""
        self._write_config(self._flood_place, mac)

    def set_flood_template(self, template: HeaderTemplate) -> None:
        """What misses are sent with from now on; its source MAC is this host's, and strays that
        are stripped here get it as destination."""
        place = self._slots.write(template)
        self._write_config(place, template.header[6:12])
        self._slots.put(FLOOD, place)

    def set_template(self, host: int, template: HeaderTemplate | None) -> None:
        """Publishes the headers to a host, atomically; None: there is no way to it now."""
        place = self._slots.write(template) if template else None
        self.owners.set_template(host, place)
        self._slots.put(host, place)
        if host in self._far:
            self._write_config(self._flood_place, self._mac)

    def set_flood_copies(self, hosts: Iterable[int]) -> None:
        """The hosts that the flood group does not reach, or all if there is none: each gets a copy
        of every flood, from the AF_XDP loop (plane "xsk")."""
        far = frozenset(hosts)
        if far != self._far:
            self._far = far
            self._write_config(self._flood_place, self._mac)

    @property
    def _flood_place(self) -> int:
        place = self._slots.get(FLOOD)
        return NO_TEMPLATE if place is None else place

    def set_peer(self, host: int, address: Address, cookies: PeerCookies) -> None:
        """Accepts tunnel packets of a host from this outer address."""
        old = self._peer_addresses.get(host)
        if old is not None and old != address:
            self.drop_peer(host)
        value = PEER.pack(
            host, cookies.unicast, cookies.unicast_old, cookies.flood, cookies.flood_old,
            cookies.reply,
        )  # fmt: skip
        self._maps["peers"].update(packed16(address), value)
        self._peer_addresses[host] = address

    def drop_peer(self, host: int) -> None:
        """Refuses tunnel packets of a host from now on."""
        address = self._peer_addresses.pop(host, None)
        if address is not None and address not in self._peer_addresses.values():
            self._maps["peers"].delete(packed16(address))  # else another id has it by now

    # ---- questions ----

    @property
    def socket_events_fd(self) -> int:
        """Readable while sockets' events wait."""
        return self._maps["socket_events"].fd

    @property
    def packet_events_fd(self) -> int:
        """Readable while packets' events wait."""
        return self._maps["packet_events"].fd

    def _counters(self) -> tuple[int, ...]:
        """All counters in the order of NAMES; one system call."""
        length = 8 * len(NAMES) * bpf_object.possible_cpus()
        return sum_counters(self._maps["counters"].lookup(bytes(4), length) or b"", self._queues)

    def socket_events_lost(self) -> int:
        """How many sockets' events the kernel could not tell: compare with its sockets."""
        return self._counters()[NAMES.index("socket_events_lost")]

    def statistics(self) -> Statistics:
        """A snapshot of the counters: of the XDP program, and of all loops."""
        return Statistics.from_per_cpu([(value,) for value in self._counters()])

    def forwarder(self) -> Forwarder:
        """The C forwarder over this host's live tables and templates; it asks no kernel."""
        settings, receiver = self.settings, receiver_of(self._config, self._maps["peers"])
        return Forwarder(settings.host, self.table4, self.table6, self.owners, self._templates,
                         pack_services(settings.by_slot), self._flood.first, quic=self._quic,
                         can_fragment=settings.plane == "xsk", receiver=receiver)  # fmt: skip

    def kernel_view(self, frame: bytes) -> KernelView:
        """Runs the kernel's view of one TCP or UDP frame, from Ethernet on: does a socket of
        this host hold its session, and does the segment fit?"""
        program = self.program_fd("xg_question")
        run = bpf_object.run_program(program, frame, ifindex=self._link.index)
        return VIEWS.get(run.action, KernelView.IN_DOUBT)

    def kernel_knows(self, frame: bytes) -> bool:
        """Whether a packet like this frame would be passed, were it flooded to this host."""
        return self.kernel_view(frame) >= KernelView.HALF

    def program_fd(self, name: str) -> int:
        """The descriptor of a program of the XDP object."""
        return self._objects[0].program_fd(name)

    def test_run(self, frame: bytes) -> bpf_object.ProgramRun:
        """Runs the XDP program on one frame, as if it came from the interface."""
        program = self.program_fd("xg_redirect")
        return bpf_object.run_program(program, frame, ifindex=self._link.index)
