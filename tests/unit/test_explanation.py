# SPDX-License-Identifier: BSD-2-Clause
"""Explanations: they agree with the forwarder, their steps lead to the ending, and in words."""

from __future__ import annotations

import re
from dataclasses import FrozenInstanceError
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pyxdp_gossip as xg
from pyxdp_gossip import _native
from pyxdp_gossip.explanation import WORDINGS
from pyxdp_gossip.stats import ENDINGS, SENTENCES
from tests.golden import ethernet, ip, tcp
from tests.golden_odd import error, quoted
from tests.golden_world import CLIENTS, ENTRIES, OWN_HOST, PORT, VIPS, State
from tests.model import UNOWNED
from tests.unit.test_golden_forwarder import golden_forwarder, rows_without_tunnel

ROOT = Path(__file__).resolve().parents[2]
ROWS = [row for row in rows_without_tunnel() if row.flood and row.agent_alive]
FRAMES = [row.frame for row in ROWS if len(row.frame) < 1000]
FORWARDER = golden_forwarder()
SESSION = xg.Session.tcp("203.0.113.9:50000", "198.51.100.1:443")

DELIVERED = {
    "delivered_stray", "delivered_syn", "delivered_udp", "delivered_flood", "delivered_icmp",
}  # fmt: skip

# The last step to the endings that may follow it.
LEADS_TO = {
    "not_ip": {"passed_not_ip"},
    "truncated": {"passed_unparsed"},
    "bad_header": {"passed_unparsed"},
    "not_transport": {"passed_unparsed"},
    "fragment": {"passed_fragment", "fragment_unknown"},
    "tiny_fragment": {"dropped_tiny_fragment"},
    "echo": {"passed_echo"},
    "icmp": {"passed_icmp"},
    "no_service": {"passed_no_service", "passed_icmp"},
    "no_flags": {"dropped_no_flags"},
    "absent": {"passed_syn", "passed_udp_new", "passed_icmp_own"},
    "unowned": {"passed_unowned", "passed_icmp_own"},
    "own": {"passed_own", "passed_icmp_own"},
    "kernel_assumed": {"passed_own", "passed_icmp_own"},
    "kernel_knows": {"passed_own", "passed_stale_entry", "passed_known", "passed_icmp_own"},
    "owner_no_headers": {"passed_syn"},
    "owner_empty_headers": {"miss_no_flood"},
    "flood_no_headers": {"miss_no_flood", "icmp_dropped", "misdirected_dropped"},
    "id_here": {"passed_udp_new", "passed_unowned"},
    "id_no_way": {"passed_udp_new", "passed_unowned"},
    "id_nobody": {"passed_udp_new", "passed_unowned"},
    "fits": {
        "stray_forwarded",
        "syn_forwarded",
        "miss_flooded",
        "icmp_forwarded",
        "icmp_flooded",
        "quic_forwarded",
        "misdirected_flooded",
    },
    "fragmented": {"fragmented"},
    "too_big": {"too_big", "too_big_answered"},
    "tunnel_cut": {"tunnel_malformed"},
    "no_sender": {"tunnel_bad_source"},
    "wrong_cookie": {"tunnel_bad_cookie"},
    "unsound": {"tunnel_malformed"},
    "probe_to_group": {"tunnel_malformed"},
    "probe": {"probe_answered"},
    "probe_malformed": {"tunnel_malformed"},
    "inner_unread": {"tunnel_malformed"},
    "inner_fragment": {"fragment_refused"},
    "inner_no_service": {"tunnel_no_service"},
    "flooded_syn": {"flood_syn"},
    "kernel_not_asked": {"flood_unknown", "icmp_unknown"},
    "kernel_unknown": {"flood_unknown", "icmp_unknown"},
    "hop_before": {"misdirected_dropped"},
    "ecn_kept": DELIVERED,
    "ecn_changed": DELIVERED,
    "ecn_lost": {"tunnel_ecn_dropped"},
    "no_checksum": {"no_checksum"},
    "no_headroom": {"no_headroom"},
}


def agrees(explanation: xg.Explanation, ending: str, output: bytes) -> bool:
    """With what the forwarder did, and with itself."""
    return (
        (explanation.ending, explanation.output) == (ending, output)
        and explanation.action == ENDINGS[ending]
        and explanation.sentence == SENTENCES[ending]
        and ending in LEADS_TO[explanation.steps[-1].name]
    )


@pytest.mark.parametrize("flood", [True, False], ids=["flood", "no flood"])
def test_every_plain_golden_packet_is_explained_as_it_is_forwarded(flood: bool) -> None:
    rows = [row for row in rows_without_tunnel() if row.flood == flood and row.agent_alive]
    forwarder = golden_forwarder(flood=flood)
    wrong = [
        row.description
        for row in rows
        if not agrees(xg.explain(row.frame, forwarder), row.ending, row.output)
    ]
    assert wrong == []
    assert {row.ending for row in rows} >= {"miss_flooded" if flood else "miss_no_flood"}


def patched(frame: bytes, patches: list[tuple[int, int]]) -> bytes:
    data = bytearray(frame)
    for offset, value in patches:
        data[offset % len(data)] = value
    return bytes(data)


MUTATED = st.builds(
    patched,
    st.sampled_from([frame for frame in FRAMES if frame]),
    st.lists(st.tuples(st.integers(0, 80), st.integers(0, 255)), max_size=3),
)


@settings(max_examples=1500, deadline=None)
@given(st.one_of(st.binary(max_size=120), MUTATED))
def test_any_frame_is_explained_as_it_is_forwarded(frame: bytes) -> None:
    ((ending, output),) = FORWARDER.forward([frame])
    assert agrees(xg.explain(frame, FORWARDER), ending, output)


def test_explaining_counts_nothing() -> None:
    forwarder = golden_forwarder()
    for row in ROWS:
        xg.explain(row.frame, forwarder)
    assert set(forwarder.counters().values()) == {0}


def segment(family: int, state: State, flags: str = "A") -> bytes:
    """A TCP packet of a session that is in this state of the table."""
    return bytes(ethernet() / ip(family) / tcp(state, flags))


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("state", State, ids=lambda state: state.name)
def test_session_flags_and_owner_are_those_of_the_packet(family: int, state: State) -> None:
    found = xg.explain(segment(family, state, "PA"), FORWARDER)
    assert found.session == xg.Session(
        CLIENTS[family], state.client_port, VIPS[family], PORT, "tcp"
    )
    assert found.tcp_flags == "PA"
    entry = ENTRIES.get(state)
    hidden = entry is None or entry.owner == UNOWNED or state is State.DEAD
    assert found.owner == (None if hidden or entry is None else entry.owner)


KNOWN = {
    State.ABSENT: "passed_known",
    State.OWN: "passed_own",
    State.OTHER: "passed_stale_entry",
    State.NO_TEMPLATE: "passed_stale_entry",
    State.DEAD: "passed_known",
}


@pytest.mark.parametrize(("state", "ending"), KNOWN.items(), ids=lambda value: str(value))
def test_what_the_kernel_knows_is_passed_as_it_came(state: State, ending: str) -> None:
    frame = segment(4, state)
    assert xg.explain(frame, FORWARDER).asks_kernel
    found = xg.explain(frame, FORWARDER, kernel_knows=True)
    assert (found.ending, found.output, found.action) == (ending, frame, "pass")
    assert found.steps[-1].name == "kernel_knows"
    assert not found.asks_kernel


@pytest.mark.parametrize("state", State, ids=lambda state: state.name)
def test_what_the_kernel_does_not_know_goes_as_if_it_was_not_asked(state: State) -> None:
    frame = segment(4, state)
    asked, unasked = (xg.explain(frame, FORWARDER, kernel_knows=knows) for knows in (False, None))
    assert (asked.ending, asked.output) == (unasked.ending, unasked.output)
    assert not asked.asks_kernel
    assert unasked.asks_kernel == any(step.name == "kernel_unknown" for step in asked.steps)


@pytest.mark.parametrize(
    ("knows", "ending", "step"),
    [
        (None, "passed_own", "kernel_assumed"),
        (True, "passed_own", "kernel_knows"),
        (False, "miss_no_flood", "kernel_unknown"),
    ],
)
def test_own_sessions_may_be_taken_as_known_but_a_kernel_that_is_asked_counts(
    knows: bool | None, ending: str, step: str
) -> None:
    frame = segment(4, State.OWN)
    forwarder = own_is_known_forwarder()
    found = xg.explain(frame, forwarder, kernel_knows=knows)
    assert found.ending == ending
    assert step in [one.name for one in found.steps]
    assert not found.asks_kernel
    assert forwarder.forward([frame]) == [("passed_own", frame)]


def own_is_known_forwarder() -> xg.Forwarder:
    """One session, of this host, which its kernel is taken to know."""
    owners = xg.OwnerStates()
    table4, table6 = (xg.SessionTable(family, 64, owners) for family in (4, 6))
    services = {0: SESSION.service}
    owners.activate(OWN_HOST)
    own = xg.Session.tcp(f"203.0.113.9:{State.OWN.client_port}", "198.51.100.1:443")
    table4.put(xg.session_key(own, services), OWN_HOST)
    return xg.Forwarder.build(OWN_HOST, services, table4, table6, owners, {}, own_is_known=True)


@pytest.mark.parametrize("flags", ["S", "SEC"])
def test_of_a_syn_the_kernel_is_never_asked(flags: str) -> None:
    for state in State:
        assert not xg.explain(segment(4, state, flags), FORWARDER).asks_kernel


def test_a_stray_is_told_in_words() -> None:
    text = str(xg.explain(segment(4, State.OTHER), FORWARDER))
    assert text.splitlines() == [
        "tcp 203.0.113.9:50003 -> 198.51.100.1:443",
        "  Can the frame be read? Yes: IP protocol 6, 40 bytes. "
        "Addresses and ports name its session.",
        "  Is its destination a service? Yes, slot 0. The POP answers for it on every host.",
        "  What kind of packet is it? A segment of a session. "
        "A stack that does not know it could only reset it.",
        "  Whose session is it by the table? Host 4's. "
        "It goes to its owner, unless it is here by now.",
        "  Does this host's kernel know the session? Nobody was asked; taken as no. "
        "The forwarder gets only what the XDP program has asked about already.",
        "  Which headers lead to the owner? Template 0. The owner's kernel decides what becomes "
        "of it.",
        "  Does it fit with the outer headers? 84 bytes, the path takes 1600. It is sent.",
        "tx: stray_forwarded. A stray, encapsulated to the owner.",
    ]


def test_every_step_of_the_header_has_words_and_no_other() -> None:
    header = (ROOT / "csrc" / "explain.h").read_text()
    names = re.findall(r"^\tX\((\w+)\)", header, re.M)
    assert names == list(_native.step_names())
    assert set(names) == set(WORDINGS)
    for name, wording in WORDINGS.items():
        line = re.search(rf"^\tX\({name}\)\s*/\*(.*)\*/", header, re.M)
        assert line, name
        for field in re.findall(r"\{(\w+)\}", wording.answer):
            assert f"{field}:" in line[1], f"{name}: {field} has no meaning in the header"
        assert wording.question.endswith("?")
        assert wording.answer.endswith(".")
        assert wording.reason.endswith(".")


def test_the_last_steps_are_those_that_the_header_says_end() -> None:
    header = (ROOT / "csrc" / "explain.h").read_text()
    ends = set(re.findall(r"^\tX\((\w+)\)\s*/\*.*\bends \*/", header, re.M))
    assert ends == set(LEADS_TO) - {
        "absent", "own", "owner_no_headers", "kernel_not_asked", "kernel_unknown"
    }  # fmt: skip


@pytest.mark.parametrize("family", [4, 6])
def test_an_icmp_error_is_explained_by_the_session_that_it_quotes(family: int) -> None:
    frame = error(family, quoted(family, State.OTHER))
    found = xg.explain(frame, FORWARDER)
    assert found.session == xg.Session(
        CLIENTS[family], State.OTHER.client_port, VIPS[family], PORT, "tcp"
    )
    assert (found.ending, found.owner, found.tcp_flags) == ("icmp_forwarded", 4, "")
    assert found.asks_kernel
    known = xg.explain(frame, FORWARDER, kernel_knows=True)
    assert (known.ending, known.output) == ("passed_icmp_own", frame)


def test_a_packet_of_port_0_has_no_session() -> None:
    frame = bytearray(segment(4, State.ABSENT))
    frame[34:36] = bytes(2)
    found = xg.explain(bytes(frame), FORWARDER)
    assert (found.session, found.ending) == (None, "miss_flooded")


def test_an_explanation_does_not_change() -> None:
    found = xg.explain(segment(4, State.OWN), FORWARDER)
    with pytest.raises(FrozenInstanceError):
        found.ending = "passed_own"  # type: ignore[misc]


# ---- Forwarder.build, session_key ----


def headers(mark: int = 0) -> xg.HeaderTemplate:
    return xg.HeaderTemplate.build(
        source=IPv4Address("10.8.0.13"), destination=IPv4Address("10.8.0.14"),
        source_mac=bytes(6), destination_mac=bytes(6), tunnel_port=6080, cookie=bytes(8),
        mtu=1500, mark=mark,
    )  # fmt: skip


def small_forwarder(
    *,
    host: int = OWN_HOST,
    slot: int = 7,
    peer: int = 4,
    flood: xg.HeaderTemplate | None = None,
) -> xg.Forwarder:
    """One service, one session of host 4."""
    owners = xg.OwnerStates()
    table4, table6 = (xg.SessionTable(family, 64, owners) for family in (4, 6))
    services = {slot: SESSION.service}
    owners.activate(4)
    table4.put(xg.session_key(SESSION, services), 4)
    return xg.Forwarder.build(
        host, services, table4, table6, owners, {peer: headers()}, flood=flood
    )


def test_a_forwarder_of_python_objects_forwards_by_its_tables() -> None:
    forwarder = small_forwarder()
    frame = segment(4, State.ABSENT)
    found = forwarder.explain(frame)
    assert (found.ending, found.owner, found.session) == ("stray_forwarded", 4, SESSION)
    assert forwarder.forward([frame]) == [(found.ending, found.output)]
    miss = segment(4, State.OTHER)
    assert forwarder.forward([miss])[0][0] == "miss_no_flood"
    assert forwarder.counters()["stray_forwarded"] == 1


def test_misses_go_to_the_flood_template() -> None:
    header = headers(mark=0x80)
    forwarder = small_forwarder(flood=header)
    miss = segment(4, State.OTHER)
    assert forwarder.forward([miss]) == [("miss_flooded", header.apply(miss))]


@pytest.mark.parametrize(
    "changes",
    [{"host": -1}, {"host": 65001}, {"slot": 65535}, {"peer": -1}, {"peer": 65001}],
    ids=str,
)
def test_what_is_out_of_range_is_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected 0"):
        small_forwarder(**changes)  # type: ignore[arg-type]


def test_a_session_key_is_of_its_services_slot() -> None:
    services = {5: SESSION.service, 9: xg.Service(VIPS[6], PORT, "udp")}
    client = CLIENTS[4].packed
    assert xg.session_key(SESSION, services) == _native.pack_key4(client, 50000, 5)
    six = xg.Session.udp("[2001:db8:c::9]:1", "[2001:db8:100::1]:443")
    assert xg.session_key(six, services) == _native.pack_key6(CLIENTS[6].packed, 1, 9)
    with pytest.raises(KeyError, match="none of the services"):
        xg.session_key(xg.Session.tcp("203.0.113.9:1", "198.51.100.1:80"), services)
