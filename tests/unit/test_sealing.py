# SPDX-License-Identifier: BSD-2-Clause
"""Sealing: vectors of the RFCs, nonces, replays, key rings, cookies."""

from __future__ import annotations

import hashlib
import hmac
import tracemalloc
from collections.abc import Iterable
from ipaddress import ip_address
from itertools import accumulate

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import example, given
from hypothesis import strategies as st

from pyxdp_gossip.config import HOST_ID_MAX
from pyxdp_gossip.errors import PeerError
from pyxdp_gossip.gossip import sealing
from pyxdp_gossip.gossip.sealing import (
    CIPHERS,
    INSECURE_SECRET,
    REPLAY_WINDOW,
    SENDERS_OPEN,
    Envelope,
    ReplayWindow,
    hkdf_sha256,
    tunnel_cookie,
)
from pyxdp_gossip.gossip.wire import HEADER, DatagramType, Header
from pyxdp_gossip.key_file import Key
from pyxdp_gossip.session import packed16

ONE, TWO = Key(1, bytes(range(32))), Key(2, bytes(range(32, 64)))
LOG = DatagramType.LOG


def envelope(host: int = 1, *, keys: tuple[Key, ...] = (ONE,), **more: object) -> Envelope:
    values = {"incarnation": 1000, "salt": 7} | more
    return Envelope(host, keys=keys, **values)  # type: ignore[arg-type]


def refusal(receiver: Envelope, data: bytes) -> str:
    with pytest.raises(PeerError) as caught:
        receiver.open(data)
    return caught.value.reason


# RFC 5869, appendix A.1 to A.3: IKM, salt, info, OKM.
HKDF_VECTORS = [
    (
        bytes([0x0B]) * 22,
        bytes(range(13)),
        bytes(range(0xF0, 0xFA)),
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
    ),
    (
        bytes(range(0x50)),
        bytes(range(0x60, 0xB0)),
        bytes(range(0xB0, 0x100)),
        "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c"
        "59045a99cac7827271cb41c65e590e09da3275600c2f09b8367793a9aca3db71"
        "cc30c58179ec3e87c14c01d5c1f3434f1d87",
    ),
    (
        bytes([0x0B]) * 22,
        b"",
        b"",
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
    ),
]


@pytest.mark.parametrize(("secret", "salt", "info", "expected"), HKDF_VECTORS)
def test_hkdf_gives_the_vectors_of_rfc_5869(
    secret: bytes, salt: bytes, info: bytes, expected: str
) -> None:
    assert hkdf_sha256(secret, salt, info, len(expected) // 2).hex() == expected


@pytest.mark.parametrize("cipher", CIPHERS)
def test_what_is_sealed_is_opened_by_another_host(cipher: str) -> None:
    data = envelope(1, cipher=cipher).seal(LOG, b"payload")
    header, payload = envelope(2, cipher=cipher).open(data)
    assert payload == b"payload"
    assert (header.type, header.sender, header.incarnation, header.salt) == (LOG, 1, 1000, 7)
    assert (header.key_id, header.counter, header.plain) == (1, 0, False)
    assert b"payload" not in data
    assert len(data) == HEADER.size + len(b"payload") + 16


def test_a_datagram_is_what_the_documented_derivation_gives() -> None:
    """By RFC 5869 on hmac alone and the AEAD's own interface: no code of the module."""
    pseudorandom = hmac.digest((7).to_bytes(8, "big"), ONE.secret, "sha256")
    info = b"pyxdp-gossip datagram v1 " + (1).to_bytes(2, "big") + (1000).to_bytes(8, "big")
    subkey = hmac.digest(pseudorandom, info + b"\x01", "sha256")
    data = envelope(1).seal(LOG, b"payload")
    assert AESGCM(subkey).decrypt(bytes(12), data[32:], data[:32]) == b"payload"


@pytest.mark.parametrize("cipher", CIPHERS)
def test_a_changed_or_cut_datagram_is_refused_at_every_byte(cipher: str) -> None:
    data = envelope(1, cipher=cipher).seal(LOG, b"payload")
    receiver = envelope(2, cipher=cipher)
    for place in range(len(data)):
        changed = data[:place] + bytes([data[place] ^ 0x40]) + data[place + 1 :]
        assert refusal(receiver, changed) != "replayed"
    for size in range(len(data)):
        reason = "malformed_datagram" if size < HEADER.size else "bad_seal"
        assert refusal(receiver, data[:size]) == reason
    receiver.open(data)


def test_a_nonce_never_repeats_under_one_sub_key() -> None:
    sender = envelope(1)
    headers = [sender.seal(LOG, b"")[:32] for _ in range(1000)]
    assert len(set(headers)) == 1000


def test_a_restart_with_the_same_clock_uses_another_sub_key() -> None:
    first = envelope(1, salt=1).seal(LOG, bytes(32))
    second = envelope(1, salt=2).seal(LOG, bytes(32))
    assert first[HEADER.size :] != second[HEADER.size :]
    receiver = envelope(2)
    receiver.open(first)
    receiver.open(second)


def test_a_datagram_is_opened_once() -> None:
    sender, receiver = envelope(1), envelope(2)
    rows = [sender.seal(LOG, b"") for _ in range(3)]
    for data in (rows[2], rows[0], rows[1]):
        receiver.open(data)
    assert {refusal(receiver, data) for data in rows} == {"replayed"}


def test_a_forged_counter_does_not_move_the_window() -> None:
    sender, receiver = envelope(1), envelope(2)
    first, second = sender.seal(LOG, b""), sender.seal(LOG, b"")
    receiver.open(first)
    assert refusal(receiver, first[:24] + b"\xff" * 8 + first[32:]) == "bad_seal"
    receiver.open(second)


def test_starts_older_than_all_that_are_kept_are_replays() -> None:
    rows = [envelope(1, incarnation=1000 + i).seal(LOG, b"") for i in range(6)]
    receiver = envelope(2)
    for data in rows[1:]:
        receiver.open(data)
    assert refusal(receiver, rows[0]) == "replayed"
    assert refusal(receiver, rows[1]) == "replayed"


def header_of(sender: int, incarnation: int, counter: int) -> Header:
    return Header(LOG, False, 1, 0, sender, incarnation, 7, counter)


def accepts(receiver: Envelope, header: Header) -> bool:
    try:
        receiver._check_replay(header)
    except PeerError:
        return False
    return True


def test_a_sender_that_many_others_pushed_out_goes_on_where_it_stood(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sealing, "SENDERS_OPEN", 2)
    receiver = envelope(9)
    heard = [header_of(1, 50, 0), header_of(1, 60, 1), header_of(1, 60, 5)]
    assert all(accepts(receiver, header) for header in heard)
    for sender in range(2, 8):
        assert accepts(receiver, header_of(sender, 1, 0))
        assert len(receiver._windows) <= 2
    assert not any(accepts(receiver, header) for header in heard)
    assert not accepts(receiver, header_of(1, 50, 1))  # of a start before the newest
    assert not accepts(receiver, header_of(1, 60, 4))  # it may have been heard
    assert accepts(receiver, header_of(1, 60, 6))
    assert accepts(receiver, header_of(1, 61, 0))
    for sender in range(2, 8):
        assert not accepts(receiver, header_of(sender, 1, 0))
        assert accepts(receiver, header_of(sender, 1, 1))
    assert not any(accepts(receiver, header) for header in heard)


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(0, 3)), max_size=60))
def test_nothing_is_accepted_twice_whoever_is_heard_between(
    rows: list[tuple[int, int, int]],
) -> None:
    receiver, seen = envelope(9), set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sealing, "SENDERS_OPEN", 2)
        for row in rows:
            assert not (accepts(receiver, header_of(*row)) and row in seen)
            seen.add(row)
    assert len(receiver._windows) <= 2


def test_all_senders_of_a_mad_pop_take_a_bounded_memory() -> None:
    receiver = envelope(9)
    tracemalloc.start()
    try:
        for sender in range(HOST_ID_MAX + 1):
            rounds = sealing.WINDOWS_PER_SENDER + 1 if sender > HOST_ID_MAX - SENDERS_OPEN else 1
            for incarnation in range(1, rounds + 1):
                assert accepts(receiver, header_of(sender, incarnation << 60, 1 << 40))
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(receiver._windows) == SENDERS_OPEN
    assert used < 30_000_000  # what SECURITY.md says


def test_the_first_key_seals_and_every_key_opens() -> None:
    receiver = envelope(2, keys=(TWO, ONE))
    receiver.open(envelope(1, keys=(ONE,)).seal(LOG, b""))
    data = receiver.seal(LOG, b"")
    envelope(1, keys=(ONE, TWO)).open(data)
    assert refusal(envelope(1, keys=(ONE,)), data) == "unknown_key"


def test_another_secret_under_the_same_id_is_a_bad_seal() -> None:
    data = envelope(1, keys=(Key(1, TWO.secret),)).seal(LOG, b"")
    assert refusal(envelope(2), data) == "bad_seal"


def test_another_cipher_is_a_bad_seal() -> None:
    data = envelope(1, cipher="chacha20-poly1305").seal(LOG, b"")
    assert refusal(envelope(2), data) == "bad_seal"


def test_another_site_is_refused() -> None:
    assert refusal(envelope(2, site=5), envelope(1).seal(LOG, b"")) == "wrong_site"


def test_plain_and_sealed_hosts_refuse_each_other() -> None:
    plain, sealed = envelope(1, keys=()), envelope(2)
    data = plain.seal(LOG, b"payload")
    assert data[HEADER.size :] == b"payload"
    assert refusal(sealed, data) == "plain_refused"
    assert refusal(plain, sealed.seal(LOG, b"")) == "sealed_refused"
    _, payload = envelope(3, keys=()).open(data)
    assert payload == b"payload"


def check_window(start: int, counters: Iterable[int]) -> None:
    """A window beside a set of what came."""
    window, seen, highest = ReplayWindow(start), set[int](), start
    for counter in counters:
        fresh = counter > start and counter not in seen and counter > highest - REPLAY_WINDOW
        assert window.accept(counter) is fresh
        seen.add(counter)
        highest = max(highest, counter)


EDGES = (REPLAY_WINDOW - 1, REPLAY_WINDOW, REPLAY_WINDOW + 8)
STARTS = st.just(-1) | st.integers(0, 2 * REPLAY_WINDOW)


@given(STARTS, st.lists(st.integers(0, 3 * REPLAY_WINDOW), max_size=200))
def test_the_window_accepts_what_a_set_would_accept(start: int, counters: list[int]) -> None:
    check_window(start, counters)


@given(
    STARTS,
    st.lists(
        st.integers(-20, 20) | st.sampled_from([sign * size for sign in (-1, 1) for size in EDGES]),
        max_size=300,
    ),
)
@example(16, [2, -1])  # one is jumped over, and comes
@example(-1, [16, REPLAY_WINDOW - 1, 1 - REPLAY_WINDOW])  # the window's last, a second time
def test_the_window_accepts_neighbours_in_any_order(start: int, steps: list[int]) -> None:
    check_window(start, (max(0, counter) for counter in accumulate(steps, initial=start)))


def test_the_window_takes_a_jump_to_the_last_counter() -> None:
    window = ReplayWindow()
    last = (1 << 64) - 1
    assert [window.accept(counter) for counter in (0, last, 0, last, last - 1)] == [
        *(True, True, False, False, True)
    ]


def test_a_cookie_depends_on_secret_and_both_addresses_in_order() -> None:
    first, second = (packed16(ip_address(text)) for text in ("10.8.0.1", "2001:db8::1"))
    cookies = {
        tunnel_cookie(ONE.secret, first, second),
        tunnel_cookie(ONE.secret, second, first),
        tunnel_cookie(TWO.secret, first, second),
        tunnel_cookie(INSECURE_SECRET, first, second),
        tunnel_cookie(ONE.secret, first, first),
    }
    assert len(cookies) == 5
    assert {len(cookie) for cookie in cookies} == {8}


def test_a_cookie_is_what_the_documented_derivation_gives() -> None:
    first, second = (packed16(ip_address(text)) for text in ("10.8.0.1", "10.8.0.2"))
    pseudorandom = hmac.digest(bytes(32), ONE.secret, "sha256")
    key = hmac.digest(pseudorandom, b"pyxdp-gossip tunnel cookie v1\x01", hashlib.sha256)
    expected = hmac.digest(key, first + second, "sha256")[:8]
    assert tunnel_cookie(ONE.secret, first, second) == expected


def test_a_cookie_wants_sixteen_byte_addresses() -> None:
    with pytest.raises(ValueError, match="expected 16"):
        tunnel_cookie(ONE.secret, bytes(4), bytes(16))
