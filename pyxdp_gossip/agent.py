# SPDX-License-Identifier: BSD-2-Clause
"""The agent: one loop that carries events between the kernel, the gossip core and the tables."""

from __future__ import annotations

import contextlib
import os
import selectors
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from typing import Any, Final, Self

from pyxdp_gossip import busy_poll, netlink, questions
from pyxdp_gossip._native import OwnershipLog, SessionTable
from pyxdp_gossip.agent_settings import dataplane_settings
from pyxdp_gossip.claims import Claims
from pyxdp_gossip.config import HOST_ID_MAX, Config
from pyxdp_gossip.dataplane import Dataplane
from pyxdp_gossip.errors import ConfigError, DuplicateHostError, HostError
from pyxdp_gossip.gossip import GossipCore, LocalHost
from pyxdp_gossip.gossip.events import (
    AskKernel,
    Drain,
    DuplicateHost,
    IncompatibleHost,
    KernelAnswer,
    Leave,
    MemberChanged,
    MemberState,
    PathChanged,
    ProbeWanted,
    SocketEvents,
    Synced,
    UnknownService,
)
from pyxdp_gossip.gossip.messages import MemberEntry
from pyxdp_gossip.gossip.records import EventKind, EventRecord
from pyxdp_gossip.gossip.sealing import INSECURE_SECRET, Envelope
from pyxdp_gossip.gossip_socket import GossipSocket, ProbeSocket
from pyxdp_gossip.incarnation import next_incarnation
from pyxdp_gossip.interface_watch import InterfaceChanged, InterfaceState, InterfaceWatch
from pyxdp_gossip.kernel_events import KernelEvents, tcp_services
from pyxdp_gossip.pins import FolderLock
from pyxdp_gossip.probes import Probes
from pyxdp_gossip.queue_watch import QueueWatch
from pyxdp_gossip.routing import Routing
from pyxdp_gossip.session import Address, KernelView, Service, Session
from pyxdp_gossip.templates import CLIENT_MTU, overhead

NS_PER_S: Final = 1_000_000_000
NS_PER_MS: Final = 1_000_000
HOUSEKEEPING_NS: Final = 90 * NS_PER_MS  # ten times within the data path's limit of 1 s; it is
HOUSEKEEPING_LATEST_NS: Final = 130 * NS_PER_MS  # done in a turn that a heartbeat makes anyway
SWEEP_BUCKETS: Final = 4096  # a turn; 1 M sessions are swept in 8 s, 2 ms of work each turn
REST_MOST: Final = 2  # flush intervals: a turn is followed by a rest of its length, if that is less
DATAGRAMS_A_TURN: Final = 64  # then the kernel's events get their turn
EVENTS_KEPT: Final = 4096  # for a caller that does not read them
IP_UDP_HEADERS: Final = {4: 28, 6: 48}  # bytes, without options


class Agent:
    """One host's agent. All methods run in one thread, in the host's network namespace.

    Raises:
        ConfigError, HostError: it cannot start; nothing is left attached.
    """

    def __init__(self, config: Config, *, log: Any = None) -> None:
        self.config = config
        if log is None:
            import structlog  # not if the program brings its own log

            log = structlog.get_logger().bind(host=config.host.id)
        self.log = log
        self.services: dict[int, Service] = dict(enumerate(config.services))
        self.slots = {service: slot for slot, service in self.services.items()}
        self.events: deque[object] = deque(maxlen=EVENTS_KEPT)
        room = config.table.sessions_v4 + config.table.sessions_v6
        self.claims = Claims(config.gossip.idle_timeout_s * NS_PER_S, room)
        self.synced: Synced | None = None
        self.members: dict[int, MemberChanged] = {}
        self.fatal: Exception | None = None
        self._stack = contextlib.ExitStack()
        self._selector = selectors.DefaultSelector()
        self._housekept_at = 0
        self._turned_at = self._rest = 0
        self._more_waits = False
        self._said = ""
        self._stay_attached = False
        self._mtu = 0

    # ---- start and stop ----

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._stack = stack
            self._start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        """Takes everything off; but after a failure, or `stop(stay_attached=True)`, the
        programs stay at work, as after a crash: the next start takes over."""
        if self._stay_attached or (kind and not issubclass(kind, DuplicateHostError)):
            self.dataplane.abandon()
        self._stack.close()

    def _start(self) -> None:
        config, now = self.config, time.monotonic_ns()
        if config.metrics_listen:
            self.log.warning("[metrics] has no effect: this version has no listener")
        if config.peers:
            self.log.warning("[[peer]] has no effect here: the kernel's routes are followed")
        settings = dataplane_settings(config, self.slots)
        self.address = address = settings.address
        self._stack.enter_context(contextlib.closing(FolderLock(config.dataplane.pins)))
        self.dataplane = Dataplane(settings)
        self._stack.enter_context(self.dataplane)
        tables = self.dataplane.table4, self.dataplane.table6
        self.ownership = OwnershipLog(*tables, config.host.id)
        self._say_what_is_adopted()
        self._open_sockets(address)
        self.watch = InterfaceWatch(
            config.host.interface, address, self.dataplane, self.gossip, self._interface_changed
        )
        tell = self.events.append
        self.queues = QueueWatch(config.host.interface, self.dataplane, self.log, tell)
        self.core = self._make_core(address, now)
        secrets = [key.secret for key in config.gossip.keys] or [INSECURE_SECRET]
        self.routing = self._stack.enter_context(
            contextlib.closing(Routing(self.dataplane, config.host.interface, address, secrets))
        )
        self.probes = Probes(self.probe, self.routing)
        self.routing.refresh()
        self._follow_mtu(now)
        added = overhead(settings.encapsulation, address.version)
        if self.routing.mtu < CLIENT_MTU + added:
            self.log.warning(
                f"MTU of {config.host.interface} is {self.routing.mtu}: clients whose strays are "
                f"above {self.routing.mtu - added} bytes are asked for smaller ones; "
                f"set it to {CLIENT_MTU + added} or more on all hosts, or [dataplane] mss"
            )
        self._handle_core_events(now)  # the ways to adopted hosts: the new program needs them
        self._attach(now)

    def _say_what_is_adopted(self) -> None:
        plane = self.dataplane
        if plane.adopted:
            sessions = len(plane.table4) + len(plane.table6)
            self.log.info("maps adopted", sessions=sessions, hosts=len(plane.adopted_hosts))
        elif plane.rebuilt_because:
            self.log.warning("maps rebuilt", reason=plane.rebuilt_because)

    def _open_sockets(self, address: Address) -> None:
        enter = self._stack.enter_context
        tcp = tcp_services(self.services)
        config, interface = self.config.gossip, self.config.host.interface
        self.gossip = enter(GossipSocket(interface, address, config.group, config.port))
        self._follow_members()
        self.probe = enter(ProbeSocket(address))
        self.follower = enter(netlink.Follower())
        self.kernel = enter(contextlib.closing(KernelEvents(self.dataplane, self.ownership, tcp)))
        for descriptor, reader in (
            *((one, partial(self._read_gossip, one)) for one in self.gossip.filenos),
            (self.probe.fileno(), self._read_probes),
            (self.follower.fileno(), self._read_changes),
            *((descriptor, self._read_kernel) for descriptor in self.kernel.filenos()),
        ):
            self._selector.register(descriptor, selectors.EVENT_READ, reader)
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stack.callback(os.close, self._wake)
        self._selector.register(self._wake, selectors.EVENT_READ, self._read_wake)
        self._stack.callback(self._selector.close)

    def _make_core(self, address: Address, now: int) -> GossipCore:
        config, dataplane = self.config, self.dataplane
        envelope = Envelope(
            config.host.id,
            next_incarnation(config.control_socket.with_suffix(".incarnation"), time.time_ns()),
            int.from_bytes(os.urandom(8), "big"),
            site=config.gossip.site,
            keys=config.gossip.keys,
            cipher=config.gossip.cipher,
        )
        dataplane.owners.activate(config.host.id)
        local = LocalHost(config.host.id, address, config.dataplane.tunnel_port, self.services)
        return GossipCore(
            local,
            envelope,
            log=self.ownership,
            owners=dataplane.owners,
            tables={4: dataplane.table4, 6: dataplane.table6},
            timing=config.gossip.timing,
            wall_offset=time.time_ns() - time.monotonic_ns(),  # at once: hosts beat together
            now=now,
            adopted=[
                MemberEntry(one.host, one.tunnel_port, 0, one.address)
                for one in dataplane.adopted_hosts
            ],
        )

    def _attach(self, now: int) -> None:
        """Sockops first, then the sockets that are there already: none falls between. If the
        tables are new, a predecessor's XDP program stays at work until the members are known."""
        takes_over = self.dataplane.has_predecessor and not self.dataplane.adopted
        self.dataplane.attach_sessions()
        self.core.handle_event(self.kernel.begin(now), now)
        if not takes_over:
            self._attach_packets()

    def _attach_packets(self) -> None:
        if self.watch.attach():
            name, plane = self.config.host.interface, self.dataplane
            self.log.info("attached", interface=name, mode=plane.mode, forwarding=plane.forwarding)
            if self.config.dataplane.busy_poll:
                self.log.info(busy_poll.advice(name))

    def stop(self, stay_attached: bool = False) -> None:
        """Says goodbye; `__exit__` takes everything off.

        Args:
            stay_attached: for an upgrade: says nothing to the others, who will find the host
                *silent*, and leaves the programs at work for the next start.
        """
        self._stay_attached = stay_attached
        if stay_attached:
            return
        now = time.monotonic_ns()
        self.core.handle_event(Leave(), now)
        self._send(now)
        self.dataplane.adopt_predecessor()

    def drain(self) -> None:
        """Tells the POP not to expect new sessions here."""
        self.core.handle_event(Drain(), time.monotonic_ns())

    # ---- questions of the caller ----

    def _locate(self, session: Session) -> tuple[SessionTable, EventRecord]:
        slot = self.slots.get(session.service)
        if slot is None:
            raise ConfigError(f"{session.service} is no service of this host")
        record = EventRecord(
            kind=EventKind.OPEN,
            family=session.family,
            slot=slot,
            client_port=session.client_port,
            host=0,
            seq=0,
            ack=0,
            address=session.client.packed.ljust(16, b"\0"),
            at=time.monotonic_ns(),
        )
        table = self.dataplane.table4 if session.family == 4 else self.dataplane.table6
        return table, record

    def owner(self, session: Session) -> int | None:
        """Who owns the session by the table; None: absent, or marked as nobody's."""
        table, record = self._locate(session)
        entry = table.get(record.key)
        return None if entry is None or entry.owner > HOST_ID_MAX else entry.owner

    def claim(self, session: Session) -> None:
        """Says that this host owns the session; of UDP, until it is idle for too long."""
        table, record = self._locate(session)
        if session.protocol == "udp":
            self.claims.keep(record, record.at)
        entry = table.get(record.key)
        if entry is None or entry.owner != self.config.host.id:  # else all know it
            self.core.handle_event(SocketEvents(record.pack()), record.at)

    def release(self, session: Session) -> None:
        """Says that this host's session has ended."""
        _, record = self._locate(session)
        self.claims.drop(record)
        closed = replace(record, kind=EventKind.CLOSE)
        self.core.handle_event(SocketEvents(closed.pack()), time.monotonic_ns())

    def report(self) -> dict[str, Any]:
        """Everything that is counted, as plain values."""
        tables = {"v4": self.dataplane.table4, "v6": self.dataplane.table6}
        return {
            "host": self.config.host.id,
            "mode": self.dataplane.forwarding,
            "attached": self.dataplane.mode,
            "interface": self.watch.state.value,
            "interface_lost": self.watch.losses,
            "interface_downs": self.watch.downs,
            "interface_queue_changes": self.queues.changes,
            "synced": self.synced is not None and not self.synced.partial,
            "members": {str(host): event.state.value for host, event in self.members.items()},
            "dataplane": self.dataplane.statistics().as_dict(),
            "gossip": asdict(self.core.counters),
            "socket": asdict(self.gossip.counters),
            "table": {name: len(table) for name, table in tables.items()},
        }

    # ---- the loop ----

    def wake(self) -> None:
        """Makes `run_once` return soon; from any thread."""
        os.eventfd_write(self._wake, 1)

    def run_once(self) -> None:
        """Waits for the next event or timer, and handles what is there.

        Raises:
            DuplicateHostError: another running host has this id.
            HostError: the kernel took something away that the agent cannot do without.
        """
        now = time.monotonic_ns()
        deadline = self._housekept_at + HOUSEKEEPING_LATEST_NS
        timer = self.core.next_timer()
        if timer is not None:
            deadline = min(deadline, timer)
        ready = self._selector.select(max(0, deadline - now) / NS_PER_S)
        if ready:
            self._pace()
        begun = time.monotonic_ns()
        self._more_waits = False
        for key, _ in ready:
            reader: Callable[[int], None] = key.data
            reader(time.monotonic_ns())
        now = time.monotonic_ns()
        if timer is not None and timer <= now:  # what was read may be due as well: next turn
            self.core.handle_timer(now)
            self._turned_at = now
        if now >= self._housekept_at + HOUSEKEEPING_NS:
            self._housekeeping(now)
        self._handle_core_events(now)
        self._send(now)
        flush = self.config.gossip.timing.flush_interval_ms * NS_PER_MS
        taken = time.monotonic_ns() - begun
        self._rest = 0 if self._more_waits else min(max(flush, taken), REST_MOST * flush)
        if self.fatal:
            raise self.fatal

    def _pace(self) -> None:
        """Under load one turn per flush interval, or less if the machine is slow: a turn costs
        nearly the same for one event as for many. One that was idle, or behind, turns at once."""
        rest = self._turned_at + self._rest - time.monotonic_ns()
        if rest > 0:
            time.sleep(rest / NS_PER_S)
        self._turned_at = time.monotonic_ns()

    def _send(self, now: int) -> None:
        for destination, data in self.core.datagrams_to_send(now):
            self.gossip.send(destination, data)

    def _housekeeping(self, now: int) -> None:
        self._housekept_at = now
        self.dataplane.heartbeat(now)
        timing = self.config.gossip.timing
        now_ms, linger_ms, unowned_ms = now // NS_PER_MS, timing.linger_s * 1000, timing.unowned_ms
        for table in (self.dataplane.table4, self.dataplane.table6):
            low = now_ms & 0xFFFFFFFF
            table.sweep(SWEEP_BUCKETS, low, linger_ms=linger_ms, unowned_ms=unowned_ms)
        self.ownership.sweep_statements(now_ms, linger_ms)
        if idle := self.claims.take_idle(now):
            self.core.handle_event(SocketEvents(idle), now)
        for event in self.kernel.resync_if_due(now):
            self.core.handle_event(event, now)
        if not self.routing.complete or self.watch.state is InterfaceState.GONE:
            self._refresh_routing()
        try:
            self.queues.check(now)
        except HostError as error:
            self._say(str(error))

    def _handle_core_events(self, now: int) -> None:
        while (event := self.core.next_event()) is not None:
            handler = HANDLERS.get(type(event))
            if handler:
                handler(self, event, now)
            self.events.append(event)

    # ---- what can be read ----

    def _read_gossip(self, descriptor: int, now: int) -> None:
        datagrams = self.gossip.receive(DATAGRAMS_A_TURN, descriptor)
        for data, sender in datagrams:
            self.core.receive_datagram(data, sender, now)
        self._more_waits |= len(datagrams) == DATAGRAMS_A_TURN

    def _read_kernel(self, now: int) -> None:
        for event in self.kernel.read(now):
            self.core.handle_event(event, now)

    def _read_probes(self, now: int) -> None:
        for answer in self.probes.receive():
            self.core.handle_event(answer, now)

    def _read_changes(self, now: int) -> None:
        if self.follower.drain():
            self._refresh_routing()

    def _refresh_routing(self) -> None:
        """Looks for the ways again; what the kernel refuses now is tried again later."""
        try:
            if not self.watch.check():
                return
            self.routing.refresh()
        except HostError as error:
            self._say(str(error))
        self._follow_mtu(time.monotonic_ns())
        if self.routing.complaint:
            self._say(self.routing.complaint)

    def _follow_mtu(self, now: int) -> None:
        """Gossip datagrams are not fragmented."""
        if self.routing.mtu != self._mtu:
            self._mtu = self.routing.mtu
            room = self._mtu - IP_UDP_HEADERS[self.address.version]
            self.core.handle_event(PathChanged(room), now)

    def _interface_changed(self, event: InterfaceChanged) -> None:
        back = event.state is InterfaceState.UP
        (self.log.info if back else self.log.error)(
            "interface", name=event.name, state=event.state.value
        )
        self.kernel.resync_soon()  # notifications may have been missed meanwhile
        self.events.append(event)

    def _say(self, message: str) -> None:
        """Logs what is wrong, once, until something else is."""
        if message != self._said:
            self._said = message
            self.log.error(message)

    def _read_wake(self, now: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)

    # ---- what the core wants ----

    def _member_changed(self, event: MemberChanged, now: int) -> None:
        self.members[event.host] = event
        self.log.info("member", peer=event.host, state=event.state.value)
        if event.state.active and event.address.version == self.address.version:
            self.routing.add(event.host, event.address, event.tunnel_port)
        else:
            self.routing.remove(event.host)
        self._follow_members()

    def _follow_members(self) -> None:
        """Without a group: all but those that left. Dead ones too, or two hosts that lost each
        other would not meet again; and the configured ones, which nobody may have heard yet."""
        if self.config.gossip.group is None:
            known = (one for one in self.members.values() if one.state is not MemberState.LEFT)
            addresses = [*self.config.gossip.members, *(one.address for one in known)]
            self.gossip.set_everyone(addresses)

    def _probe_wanted(self, event: ProbeWanted, now: int) -> None:
        self.probes.send(event)

    def _synced(self, event: Synced, now: int) -> None:
        self._attach_packets()
        self.synced = event
        if event.partial:
            self.log.warning("synced partly: some members' sessions did not come in time")
        else:
            self.log.info("synced")

    def _ask_kernel(self, event: AskKernel, now: int) -> None:
        views = [self._view(frame) for frame in questions.frames(event.questions, self.services)]
        self.core.handle_event(KernelAnswer(event.asker, event.number, views), now)

    def _view(self, frame: bytes | None) -> KernelView:
        try:
            return self.dataplane.kernel_view(frame) if frame else KernelView.IN_DOUBT
        except HostError as error:  # a question is advice: the host goes on without the answer
            self._say(str(error))
            return KernelView.IN_DOUBT

    def _duplicate(self, event: DuplicateHost, now: int) -> None:
        if event.fatal:
            self.fatal = DuplicateHostError(
                f"host id {self.config.host.id} is taken by the host at {event.address[0]}: "
                "give each host of the POP its own [host] id"
            )
        else:
            self.log.error("duplicate host id", other=event.address[0])

    def _unknown_service(self, event: UnknownService, now: int) -> None:
        self.log.warning("unknown service", peer=event.host, records=event.records)


HANDLERS: Final[dict[type, Callable[[Agent, Any, int], None]]] = {
    MemberChanged: Agent._member_changed,
    ProbeWanted: Agent._probe_wanted,
    Synced: Agent._synced,
    AskKernel: Agent._ask_kernel,
    DuplicateHost: Agent._duplicate,
    IncompatibleHost: lambda agent, event, now: agent.log.error(str(event)),
    UnknownService: Agent._unknown_service,
}
