# SPDX-License-Identifier: BSD-2-Clause
"""Says why a frame ends as it does: the forwarder's own steps, in words (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final, Literal, NamedTuple, cast

from pyxdp_gossip import _native
from pyxdp_gossip.encapsulation import ENCAPSULATIONS
from pyxdp_gossip.session import Address, Protocol, Session, unpacked16
from pyxdp_gossip.stats import ENDINGS, SENTENCES

Action = Literal["pass", "drop", "tx"]

PROTOCOLS: Final[Mapping[int, Protocol]] = {6: "tcp", 17: "udp"}
FORMATS: Final = {form.number: name for name, form in ENCAPSULATIONS.items()}
TCP_FLAGS: Final = "FSRPAUEC"
"""Letters of the flags from the lowest bit on: FIN, SYN, RST, PSH, ACK, URG, ECE, CWR."""


class Wording(NamedTuple):
    """How one step reads. The answer may name {value}, {bound}, {format} and {sender};
    csrc/explain.h says of what."""

    question: str
    answer: str
    reason: str


TUNNEL: Final = "Is it a tunnel packet for this host?"
SENDER: Final = "Is its sender an active host?"
COOKIE: Final = "Does its cookie match?"
FORMAT: Final = "Is it written as this POP does?"
PURPOSE: Final = "What is it sent for?"
INNER: Final = "Can the packet inside be read?"
READ: Final = "Can the frame be read?"
SERVICE: Final = "Is its destination a service?"
KIND: Final = "What kind of packet is it?"
TABLE: Final = "Whose session is it by the table?"
KERNEL: Final = "Does this host's kernel know the session?"
ID: Final = "Whose connection is it by its QUIC connection id?"
HEADERS: Final = "Which headers lead to the owner?"
FLOOD: Final = "Which headers lead to all hosts?"
SIZE: Final = "Does it fit with the outer headers?"
HOP: Final = "Was it sent to a wrong host before?"
ECN: Final = "What becomes of the ECN mark?"

WORDINGS: Final[Mapping[str, Wording]] = {
    "tunnel": Wording(
        TUNNEL, "Yes, {format} from {sender}.", "Another host of the POP may have sent it here."
    ),
    "tunnel_cut": Wording(FORMAT, "Its headers are cut.", "There is nothing to check."),
    "sender": Wording(SENDER, "Yes, host {value}.", "Only hosts of the POP may send here."),
    "no_sender": Wording(SENDER, "No.", "Only hosts of the POP may send here."),
    "cookie": Wording(COOKIE, "Yes.", "An address can be forged, the cookie not."),
    "cookie_no_room": Wording(
        COOKIE, "The format has no room for one.", "The outer source must do."
    ),
    "wrong_cookie": Wording(
        COOKIE, "No.", "It is of neither the present nor the previous key, or of another direction."
    ),
    "sound": Wording(FORMAT, "Yes.", "Nothing of it must be guessed."),
    "unsound": Wording(FORMAT, "No.", "What would have to be guessed is not read."),
    "probe_to_group": Wording(
        FORMAT, "It is a probe to the flood group.", "A group cannot be the source of an answer."
    ),
    "probe": Wording(
        PURPOSE,
        "It asks whether this host lives.",
        "It is answered, also while the agent is down.",
    ),
    "probe_malformed": Wording(
        PURPOSE,
        "It asks whether this host lives, in another length.",
        "What would have to be guessed is not answered.",
    ),
    "flooded": Wording(
        PURPOSE,
        "It is a flood of host {value}.",
        "The one host whose kernel knows the session takes it; a flood goes on to nobody.",
    ),
    "relayed": Wording(
        PURPOSE,
        "Host {value} could not flood it.",
        "This host floods it for the sender, unless its kernel knows the session.",
    ),
    "sent_here": Wording(
        PURPOSE, "By host {value} it is this host's.", "The sender's table may be wrong."
    ),
    "inner_unread": Wording(INNER, "No.", "A host of the POP would not send it."),
    "inner_fragment": Wording(
        INNER,
        "It is a later fragment.",
        "It has no ports; a running host delivers it if it delivered its first one.",
    ),
    "inner_error": Wording(
        INNER,
        "It is an ICMP error that quotes IP protocol {value}.",
        "It is for the host that owns the session of the quoted packet.",
    ),
    "inner_parsed": Wording(
        INNER, "Yes: IP protocol {value}, {bound} bytes.", "Addresses and ports name its session."
    ),
    "inner_no_service": Wording(SERVICE, "No.", "The tunnel is no way around the router."),
    "not_ip": Wording(
        READ, "It is neither IPv4 nor IPv6.", "ARP, LLDP and the like are not ours."
    ),
    "truncated": Wording(
        READ, "It is cut.", "Without ports there is no session; the stack judges by itself."
    ),
    "bad_header": Wording(
        READ,
        "A length in its headers is impossible.",
        "Without ports there is no session; the stack judges by itself.",
    ),
    "not_transport": Wording(
        READ,
        "It is neither TCP nor UDP, or has too many extension headers.",
        "Without ports there is no session; the stack judges by itself.",
    ),
    "fragment": Wording(
        READ, "It is a later fragment.", "It has no ports; a running host sends it after its first."
    ),
    "tiny_fragment": Wording(
        READ,
        "It is a first fragment that ends before its ports do.",
        "No stack sends it; put together, it could be a segment of a session elsewhere.",
    ),
    "echo": Wording(READ, "It is a ping.", "Each host answers for itself."),
    "icmp": Wording(
        READ, "It is ICMP that quotes no TCP and no UDP of the VIP.", "It is of no session."
    ),
    "icmp_error": Wording(
        READ,
        "It is an ICMP error that quotes IP protocol {value}.",
        "It is for the host that owns the session of the quoted packet.",
    ),
    "parsed": Wording(
        READ, "Yes: IP protocol {value}, {bound} bytes.", "Addresses and ports name its session."
    ),
    "no_service": Wording(SERVICE, "No.", "What is no service is not ours to redirect."),
    "service": Wording(SERVICE, "Yes, slot {value}.", "The POP answers for it on every host."),
    "no_flags": Wording(
        KIND,
        "TCP with none of SYN, ACK and RST.",
        "No stack sends it; it proves nothing about a session.",
    ),
    "flooded_syn": Wording(
        KIND, "A SYN.", "A flood never opens a session, or every host would."
    ),
    "opens": Wording(KIND, "A SYN.", "It opens a session, unless one lives already."),
    "segment": Wording(
        KIND, "A segment of a session.", "A stack that does not know it could only reset it."
    ),
    "datagram": Wording(
        KIND, "UDP.", "It may open a session; an unconnected socket cannot tell."
    ),
    "absent": Wording(
        TABLE, "It is not in the table.", "Nobody claimed it, or its owner is not active."
    ),
    "unowned": Wording(
        TABLE,
        "It is marked as nobody's.",
        "Every host was asked and none has it: the local stack may answer.",
    ),
    "own": Wording(TABLE, "This host's, {value}.", "Its socket should be here."),
    "other": Wording(TABLE, "Host {value}'s.", "It goes to its owner, unless it is here by now."),
    "kernel_not_asked": Wording(
        KERNEL,
        "Nobody was asked; taken as no.",
        "The forwarder gets only what the XDP program has asked about already.",
    ),
    "kernel_assumed": Wording(
        KERNEL,
        "Nobody was asked; taken as yes, as the table says.",
        "Without a kernel, what the table says of this host's own sessions is believed.",
    ),
    "kernel_knows": Wording(
        KERNEL, "Yes.", "The socket is the truth: a stale entry must not steal a live session."
    ),
    "kernel_unknown": Wording(
        KERNEL, "No.", "A packet of a live session is never passed to a stack that lacks it."
    ),
    "hop_before": Wording(HOP, "Yes.", "It is dropped: no packet may circle."),
    "first_hop": Wording(HOP, "No.", "It is flooded, once."),
    "id_other": Wording(
        ID, "Host {value}'s.", "The client's address changed, or nobody claimed the session."
    ),
    "id_here": Wording(ID, "This host's, {value}.", "Its server knows the id."),
    "id_no_way": Wording(
        ID,
        "Host {value}'s, which is not active, or has no template.",
        "It is passed: there is no way to its owner.",
    ),
    "id_nobody": Wording(
        ID, "It names nobody.", "A new connection, or an id of another layout: it is passed."
    ),
    "owner_headers": Wording(
        HEADERS, "Template {value}.", "The owner's kernel decides what becomes of it."
    ),
    "owner_no_headers": Wording(
        HEADERS,
        "None: there is no way to the owner.",
        "A SYN is passed, since a flooded one is dropped everywhere; the rest is flooded.",
    ),
    "owner_empty_headers": Wording(
        HEADERS, "Template {value}, which is empty.", "It is dropped: there is no way to the owner."
    ),
    "flood_headers": Wording(
        FLOOD,
        "Template {value}, the flood group's; without a group, the first host's.",
        "The one host whose kernel knows the session takes it, the others drop it.",
    ),
    "flood_no_headers": Wording(
        FLOOD, "None is set.", "It is dropped: the stack could only reset the session."
    ),
    "fits": Wording(SIZE, "{value} bytes, the path takes {bound}.", "It is sent."),
    "fragmented": Wording(
        SIZE,
        "{value} bytes, the path takes {bound}.",
        "It has no DF: it is sent in fragments, as by a router.",
    ),
    "too_big": Wording(
        SIZE,
        "{value} bytes, the path takes {bound}.",
        "It would vanish on the way: its sender is told, if it may be; else it is only counted.",
    ),
    "no_checksum": Wording(
        SIZE,
        "There is no checksum to derive the outer one from.",
        "UDP over IPv6 carries one, and the packet inside has none that covers it.",
    ),
    "no_headroom": Wording(
        SIZE, "There is no room in front of the frame.", "The driver's doing; counted."
    ),
    "ecn_kept": Wording(
        ECN, "It stays {value}.", "The packet inside is stripped and passed, as it was sent."
    ),
    "ecn_changed": Wording(
        ECN,
        "It was {bound} and becomes {value}.",
        "The outer one is not lost (RFC 6040); the packet inside is stripped and passed.",
    ),
    "ecn_lost": Wording(
        ECN,
        "Congestion is marked outside, and inside there is no ECN.",
        "It is dropped (RFC 6040): its sender would never learn of the congestion.",
    ),
}  # fmt: skip
"""Step name to its words: the rows of docs/decision-table.md."""

KERNEL_QUESTION: Final = "kernel_not_asked"


@dataclass(frozen=True, slots=True)
class Step:
    """One question on a frame's way.

    Attributes:
        name: of what was found, as in csrc/explain.h; stable, for programs.
        question: what was asked.
        answer: what was found.
        reason: why that matters; from docs/decision-table.md.
    """

    name: str
    question: str
    answer: str
    reason: str

    def __str__(self) -> str:
        return f"{self.question} {self.answer} {self.reason}"


@dataclass(frozen=True, slots=True)
class Explanation:
    """What becomes of one frame, and why.

    Attributes:
        ending: the counter that the frame ends in, as in `Statistics`.
        action: "pass" to the stack, "drop", or "tx": sent.
        sentence: the ending's sentence.
        steps: what was asked and found, in order.
        session: the session by the packet's addresses and ports, of a service or not, or by those
            that an ICMP error quotes; None if they cannot be read, or a port is 0. Of a tunnel
            packet for this host, that of the packet inside; so are flags and owner.
        tcp_flags: letters of FSRPAUEC; "" for UDP, ICMP errors and what cannot be read.
        owner: the host id by the session table; None: not in it, marked as nobody's, or not asked.
        output: the frame as it leaves or is passed, bytes; of one that
            is dropped, or sent in fragments (`Forwarder.fragments`), as it came.
        sender: outer source of a tunnel packet for this host; None: it is none.
        question: the frame that the kernel must be asked about: this one, or what is in its tunnel.
    """

    ending: str
    action: Action
    sentence: str
    steps: tuple[Step, ...]
    session: Session | None
    tcp_flags: str
    owner: int | None
    output: bytes
    sender: Address | None
    question: bytes

    def __str__(self) -> str:
        lines = [str(self.session)] if self.session else []
        lines += [f"  {step}" for step in self.steps]
        return "\n".join([*lines, f"{self.action}: {self.ending}. {self.sentence}"])

    @property
    def asks_kernel(self) -> bool:
        """Whether the answer of this host's kernel would count, and nobody gave it."""
        return any(step.name == KERNEL_QUESTION for step in self.steps)


def explain(
    frame: bytes, forwarder: _native.Forwarder, *, kernel_knows: bool | None = None
) -> Explanation:
    """Says what a forwarder does with a frame and why, by the same C code. Counts nothing.

    Args:
        frame: bytes from the Ethernet header on.
        forwarder: its tables, templates and services are asked; nobody may write them meanwhile.
        kernel_knows: whether this host's kernel has a socket that the packet fits, as the XDP
            program would find out; None: nobody was asked, as in `Forwarder.forward`.

    Returns:
        Ending and output are those of `Forwarder.forward`, unless `kernel_knows` is true.

    Source: docs/decision-table.md.
    """
    ending, output, packet, found, source, question = _native.explain_steps(
        forwarder, frame, kernel_knows
    )
    sender = unpacked16(source) if source else None
    owners = [value for name, value, _ in found if name in ("own", "other")]
    return Explanation(
        ending=ending,
        action=cast(Action, ENDINGS[ending]),
        sentence=SENTENCES[ending],
        steps=tuple(_step(*step, sender) for step in found),
        session=_session(packet) if packet else None,
        tcp_flags=_flags(packet[5]) if packet else "",
        owner=owners[0] if owners else None,
        output=output,
        sender=sender,
        question=question,
    )


def _step(name: str, value: int, bound: int, sender: Address | None) -> Step:
    wording = WORDINGS[name]
    form = FORMATS.get(value, "") if name == "tunnel" else ""
    answer = wording.answer.format(value=value, bound=bound, format=form, sender=sender)
    return Step(name, wording.question, answer, wording.reason)


def _session(packet: tuple[bytes, int, bytes, int, int, int]) -> Session | None:
    client, client_port, vip, port, protocol, _ = packet
    if not client_port or not port:
        return None
    family = IPv4Address if len(client) == 4 else IPv6Address
    return Session(family(client), client_port, family(vip), port, PROTOCOLS[protocol])


def _flags(bits: int) -> str:
    return "".join(letter for bit, letter in enumerate(TCP_FLAGS) if bits & 1 << bit)
