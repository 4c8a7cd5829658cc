# SPDX-License-Identifier: BSD-2-Clause
"""Checks of `doctor` about the interface, the paths, the services and the agent."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pyxdp_gossip import bpf_object, netlink
from pyxdp_gossip.bpf_object import PinnedLink
from pyxdp_gossip.dataplane_settings import announced_mss
from pyxdp_gossip.device_answers import ask_state
from pyxdp_gossip.diagnosis import Finding, Patient
from pyxdp_gossip.encapsulation import ENCAPSULATIONS, overhead
from pyxdp_gossip.errors import HostError
from pyxdp_gossip.listeners import is_served
from pyxdp_gossip.live_snapshot import is_live
from pyxdp_gossip.session import Address, format_endpoint

CLIENT_MTU: Final = 1500
SYSCTL: Final = Path("/proc/sys/net/ipv4")


def interface(patient: Patient) -> Iterator[Finding]:
    """It is there and up."""
    name, link = patient.interface, patient.link
    if not name:
        return
    if link is None:
        there = ", ".join(one for _index, one in socket.if_nameindex())
        remedy = f"name one that is: {there}"
        yield Finding("interface", "problem", f"there is no {name}", remedy)
    elif not link.up:
        remedy = f"ip link set dev {name} up, and look at its cable or peer"
        yield Finding("interface", "problem", f"{name} is down", remedy)
    else:
        yield Finding("interface", "ok", f"{name} is up ({link.kind or 'no driver'})")


def address(patient: Patient) -> Iterator[Finding]:
    """The interface has the underlay address, of the family of the group or members."""
    config, link = patient.config, patient.link
    if config is None or link is None:
        return
    own, others = patient.address, config.gossip.group or config.gossip.members[0]
    if own is None:
        remedy = f"ip addr add ADDRESS/LENGTH dev {link.name}, or set host.address"
        text = f"{link.name} has no global IPv{others.version} address"
        yield Finding("address", "problem", text, remedy)
    elif not netlink.has_address(link.index, own):
        remedy = f"ip addr add {own}/LENGTH dev {link.name}, or change host.address"
        yield Finding("address", "problem", f"{link.name} does not have {own}", remedy)
    elif own.version != others.version:
        remedy = "set host.address to one of that family"
        yield Finding("address", "problem", f"{own} is not of {others}'s family", remedy)
    else:
        yield Finding("address", "ok", str(own))


def mtu(patient: Patient) -> Iterator[Finding]:
    """Of the interface and of the paths to known hosts, against what the tunnel adds."""
    config, link, own = patient.config, patient.link, patient.address
    if config is None or link is None or own is None:
        return
    yield _room(patient, link.name, link.mtu, own)
    for other in dict.fromkeys((*config.gossip.members, *(one.address for one in config.peers))):
        if other == own:
            continue
        found = netlink.path_mtu(other)
        if found is None:
            remedy = "add a route, or remove it from the configuration"
            yield Finding("mtu", "warning", f"no route to {other}", remedy)
        else:
            yield _room(patient, f"the path to {other}", found, own)


def _room(patient: Patient, what: str, found: int, own: Address) -> Finding:
    assert patient.config is not None
    plane = patient.config.dataplane
    added = overhead(plane.encapsulation, own.version)
    mss4, mss6 = announced_mss("auto", found, added)
    if found >= CLIENT_MTU + added:
        return Finding("mtu", "ok", f"{what} takes {found}: {added} are for {plane.encapsulation}")
    text = f"{what} takes {found}, {found - added} without the outer headers"
    announced = announced_mss(plane.mss, patient.link.mtu if patient.link else found, added)
    if 0 < announced[0] <= mss4 and announced[1] <= mss6:
        return Finding("mtu", "ok", f"{text}; the services announce an MSS of {announced[0]}")
    narrower = patient.link is not None and found < patient.link.mtu
    mss = f"{min(mss4, mss6)}" if narrower else f'"auto" ({mss4} over IPv4, {mss6} over IPv6)'
    remedy = f"set its MTU to {CLIENT_MTU + added} or more, or [dataplane] mss = {mss}: docs/mtu.md"
    return Finding("mtu", "warning", text, remedy)


def multicast(patient: Patient) -> Iterator[Finding]:
    """The interface takes the gossip's group."""
    if patient.config is None or patient.link is None:
        return
    group = patient.config.gossip.group
    if group is None:
        yield Finding("group", "ok", "none: gossip goes to members by unicast")
    elif ask_state(patient.link.index).multicast:
        yield Finding("group", "ok", f"{patient.link.name} takes multicast, so {group} too")
    else:
        remedy = f"ip link set dev {patient.link.name} multicast on, or list [gossip] members"
        yield Finding("group", "problem", f"{patient.link.name} takes no multicast", remedy)


def ports(patient: Patient) -> Iterator[Finding]:
    """The tunnel's port is nobody else's."""
    config, own = patient.config, patient.address
    if config is None or own is None or not ENCAPSULATIONS[config.dataplane.encapsulation].has_udp:
        return
    where = format_endpoint(own, config.dataplane.tunnel_port)
    family = socket.AF_INET if own.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(own), config.dataplane.tunnel_port))
        except OSError as error:
            remedy = "set another [dataplane] tunnel_port on all hosts, or stop the other program"
            text = f"{where} (UDP): {error.strerror}"
            yield Finding("tunnel port", "warning", text, remedy)
            return
    yield Finding("tunnel port", "ok", f"{where} is free")


def sysctls(patient: Patient) -> Iterator[Finding]:
    """What of the kernel's settings drops packets of live sessions."""
    link = patient.link
    if link is not None:
        values = [_sysctl(f"conf/{name}/rp_filter") for name in ("all", link.name)]
        strict = max((one for one in values if one is not None), default=0) == 1
        if strict:
            text = f"strict: drops clients whose way back is not {link.name}"
            remedy = f"sysctl -w net.ipv4.conf.{link.name}.rp_filter=2"
            yield Finding("rp_filter", "warning", text, remedy)
        else:
            yield Finding("rp_filter", "ok", "not strict")
    if _sysctl("tcp_syncookies") == 0:
        remedy = "sysctl -w net.ipv4.tcp_syncookies=1"
        yield Finding("tcp_syncookies", "warning", "off: a SYN flood closes the services", remedy)
    else:
        yield Finding("tcp_syncookies", "ok", "on")


def _sysctl(name: str) -> int | None:
    try:
        return int((SYSCTL / name).read_text())
    except (OSError, ValueError):
        return None


def services(patient: Patient) -> Iterator[Finding]:
    """Each VIP is this host's own address, and somebody listens."""
    if patient.config is None:
        return
    for vip in dict.fromkeys(one.vip for one in patient.config.services):
        if netlink.is_local(vip):
            yield Finding("vip", "ok", f"{vip} is local")
        else:
            remedy = f"ip addr add {vip}/{vip.max_prefixlen} dev lo"
            yield Finding("vip", "problem", f"{vip} is no address of this host", remedy)
    for one in patient.config.services:
        try:
            served = is_served(one)
        except HostError as error:
            yield Finding("listener", "warning", f"{one}: could not tell: {error}")
            continue
        if served:
            yield Finding("listener", "ok", f"{one} has one")
        else:
            yield Finding("listener", "warning", f"nobody listens on {one}", "start the proxy")


def offloads(patient: Patient) -> Iterator[Finding]:
    """A veth hands over checksums that nobody ever computes."""
    link = patient.link
    if link is None or link.kind != "veth":
        return
    if netlink.leaves_checksums_open(link.name):
        text = "a veth that leaves checksums to hardware: copies in a tunnel carry wrong ones"
        remedy = f"ethtool -K {link.name} tx off tso off gso off, at both ends"
        yield Finding("offloads", "warning", text, remedy)
    else:
        yield Finding("offloads", "ok", f"{link.name} computes checksums itself")


def program(patient: Patient) -> Iterator[Finding]:
    """Whose XDP program is on the device."""
    link = patient.link
    if link is None:
        return
    found = ask_state(link.index).attached
    if found is None:
        yield Finding("XDP program", "ok", "none is attached")
        return
    names = bpf_object.attached_names(link.index)
    text = f"{names} (id {found.program}, {found.mode})"
    if patient.config is None:
        yield Finding("XDP program", "ok", text)
    elif _is_ours(patient.config.dataplane.pins, link.index):
        yield Finding("XDP program", "ok", f"{text}, this host's own")
    elif not patient.capabilities:
        yield Finding("XDP program", "warning", f"{text}; whose, only root can tell")
    else:
        off = {"skb": "xdpgeneric", "offload": "xdpoffload"}.get(found.mode, "xdp")
        remedy = f"ip link set dev {link.name} {off} off"
        yield Finding("XDP program", "problem", f"another one is attached: {text}", remedy)


def _is_ours(pins: Path, index: int) -> bool:
    pinned = PinnedLink.find(pins / "xdp")
    if pinned is None:
        return False
    try:
        return pinned.ifindex == index
    finally:
        pinned.close()


def agent(patient: Patient) -> Iterator[Finding]:
    """Whether an agent is at work here, by its pins and its lock."""
    if patient.config is None:
        return
    pins = patient.config.dataplane.pins
    if not is_live(pins):
        yield Finding("agent", "ok", f"none is at work with the pins {pins}, that can be seen")
    elif _is_locked(pins):
        yield Finding("agent", "ok", f"runs with the pins {pins}")
    else:
        remedy = "start the agent: it goes on with them"
        yield Finding("agent", "warning", f"gone, its programs at work ({pins})", remedy)


def _is_locked(folder: Path) -> bool:
    """By /proc/locks: to try the lock would refuse an agent that starts in this moment."""
    found = folder.stat()
    place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    lines = Path("/proc/locks").read_text().splitlines()
    return any(" FLOCK " in line and place in line.split() for line in lines)
