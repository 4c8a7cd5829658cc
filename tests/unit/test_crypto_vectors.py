# SPDX-License-Identifier: BSD-2-Clause
"""Published vectors of the AEADs, a datagram made by hand, and a table of replays."""

from __future__ import annotations

import hmac
import struct
from typing import NamedTuple

import pytest
from cryptography.exceptions import InvalidTag
from hypothesis import given
from hypothesis import strategies as st

from pyxdp_gossip.gossip.sealing import CIPHERS, REPLAY_WINDOW, Envelope, ReplayWindow
from pyxdp_gossip.gossip.wire import TAG_BYTES, DatagramType
from pyxdp_gossip.key_file import Key


class Vector(NamedTuple):
    """One published case; `sealed` is the ciphertext and the tag behind it."""

    cipher: str
    key: str
    nonce: str
    clear: str
    associated: str
    sealed: str


GCM_KEY = "feffe9928665731c6d6a8f9467308308" * 2
GCM_CLEAR = (
    "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
    "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255"
)
GCM_SEALED = (
    "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
    "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad"
)
SUNSCREEN = (
    b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, "
    b"sunscreen would be it."
)
VECTORS = {
    "GCM 13": Vector(
        "aes-256-gcm", "00" * 32, "00" * 12, "", "", "530f8afbc74536b9a963b4f1c4cb738b"
    ),
    "GCM 14": Vector(
        *("aes-256-gcm", "00" * 32, "00" * 12, "00" * 16, ""),
        "cea7403d4d606b6e074ec5d3baf39d18" + "d0d1c8a799996bf0265b98b5d48ab919",
    ),
    "GCM 15": Vector(
        *("aes-256-gcm", GCM_KEY, "cafebabefacedbaddecaf888", GCM_CLEAR, ""),
        GCM_SEALED + "b094dac5d93471bdec1a502270e3cc6c",
    ),
    "GCM 16": Vector(
        *("aes-256-gcm", GCM_KEY, "cafebabefacedbaddecaf888", GCM_CLEAR[:120]),
        "feedfacedeadbeeffeedfacedeadbeefabaddad2",
        GCM_SEALED[:120] + "76fc6ece0f4e1768cddf8853bb2d551b",
    ),
    "RFC 8439": Vector(
        *("chacha20-poly1305", bytes(range(0x80, 0xA0)).hex(), "070000004041424344454647"),
        *(SUNSCREEN.hex(), "50515253c0c1c2c3c4c5c6c7"),
        "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d6"
        "3dbea45e8ca9671282fafb69da92728b1a71de0a9e060b2905d6a5b67ecd3b36"
        "92ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc"
        "3ff4def08e4b7a9de576d26586cec64b6116"
        "1ae10b594f09e26a7e902ecbd0600691",
    ),
}
"""Test cases 13 to 16 of McGrew and Viega, "The Galois/Counter Mode of Operation", appendix B
(those of 256-bit keys and 96-bit nonces), and RFC 8439 section 2.8.2."""


@pytest.mark.parametrize("vector", VECTORS.values(), ids=VECTORS.keys())
def test_the_ciphers_of_the_envelope_give_the_published_bytes(vector: Vector) -> None:
    key, nonce, clear, associated, sealed = (bytes.fromhex(field) for field in vector[1:])
    aead = CIPHERS[vector.cipher](key)
    assert aead.encrypt(nonce, clear, associated) == sealed
    assert aead.decrypt(nonce, sealed, associated) == clear
    assert len(sealed) - len(clear) == TAG_BYTES


@pytest.mark.parametrize("vector", VECTORS.values(), ids=VECTORS.keys())
def test_a_published_vector_with_any_byte_changed_is_refused(vector: Vector) -> None:
    key, nonce, _, associated, sealed = (bytes.fromhex(field) for field in vector[1:])
    aead = CIPHERS[vector.cipher](key)
    for place in range(len(sealed)):
        changed = sealed[:place] + bytes([sealed[place] ^ 1]) + sealed[place + 1 :]
        with pytest.raises(InvalidTag):
            aead.decrypt(nonce, changed, associated)
    with pytest.raises(InvalidTag):
        aead.decrypt(nonce, sealed, associated + b"\0")


def test_every_cipher_that_can_be_configured_has_a_vector() -> None:
    assert {vector.cipher for vector in VECTORS.values()} == set(CIPHERS)


# ---- one whole datagram ----

SECRET = bytes(range(32))
INCARNATION, SALT, SITE, SENDER, KEY_ID = 0x0102030405060708, 0x1112131415161718, 9, 300, 5
PAYLOAD = bytes.fromhex("09000000")  # one LEAVE


def hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """RFC 5869 for 32 bytes: one round of expansion, on hmac alone."""
    return hmac.digest(hmac.digest(salt, secret, "sha256"), info + b"\x01", "sha256")


@pytest.mark.parametrize("cipher", CIPHERS)
@pytest.mark.parametrize("counter", [0, 1, 2])
def test_a_sealed_datagram_is_the_one_computed_by_hand(cipher: str, counter: int) -> None:
    info = b"pyxdp-gossip datagram v1 " + struct.pack(">HQ", SENDER, INCARNATION)
    subkey = hkdf(SECRET, struct.pack(">Q", SALT), info)
    header = struct.pack(
        ">BBHHHQQQ", 1, 2, KEY_ID, SITE, SENDER, INCARNATION, SALT, counter
    )  # type 2: membership
    sealed = CIPHERS[cipher](subkey).encrypt(struct.pack(">IQ", 0, counter), PAYLOAD, header)
    envelope = Envelope(
        *(SENDER, INCARNATION, SALT), site=SITE, keys=(Key(KEY_ID, SECRET),), cipher=cipher
    )
    rows = [envelope.seal(DatagramType.MEMBERSHIP, PAYLOAD) for _ in range(counter + 1)]
    assert rows[counter] == header + sealed


def test_a_plain_datagram_is_the_one_written_by_hand() -> None:
    header = struct.pack(">BBHHHQQQ", 1, 0x82, 0, SITE, SENDER, INCARNATION, SALT, 0)
    envelope = Envelope(SENDER, INCARNATION, SALT, site=SITE)
    assert envelope.seal(DatagramType.MEMBERSHIP, PAYLOAD) == header + PAYLOAD


def test_a_sub_key_differs_with_each_thing_that_it_is_made_of() -> None:
    """Same counter, same payload: only the sub-key can make the sealed bytes differ."""
    starts = [(300, 1, 1, 0), (301, 1, 1, 0), (300, 2, 1, 0), (300, 1, 2, 0), (300, 1, 1, 1)]
    sealed = {
        Envelope(host, incarnation, salt, keys=(Key(1, bytes([secret]) * 32),)).seal(
            DatagramType.LOG, bytes(64)
        )[32:96]
        for host, incarnation, salt, secret in starts
    }
    assert len(sealed) == len(starts)


# ---- replays ----

W = REPLAY_WINDOW
LAST = (1 << 64) - 1
REPLAYS: dict[str, list[tuple[int, bool]]] = {
    "in order": [(0, True), (1, True), (2, True), (3, True)],
    "the first of all again": [(0, True), (0, False)],
    "begins anywhere": [(7 * W, True), (7 * W - 1, True), (7 * W, False)],
    "the newest again": [(5, True), (5, False), (6, True), (5, False), (6, False)],
    "overtaken, once each": [(9, True), (4, True), (8, True), (4, False), (8, False), (5, True)],
    "oldest of the window": [(W, True), (1, True), (1, False)],
    "one older than the window": [(W, True), (0, False), (0, False), (1, True)],
    "never seen and too old": [(3 * W, True), (2 * W, False), (2 * W + 1, True)],
    "a step of the window less one": [(0, True), (W - 1, True), (0, False), (1, True), (W, True)],
    "a step of exactly the window": [(0, True), (W, True), (0, False), (1, True), (W, False)],
    "a step of the window and one": [(0, True), (1, True), (W + 1, True), (1, False), (2, True)],
    "a big step forgets nothing it should know": [
        *((3, True), (100 * W, True), (3, False), (100 * W, False)),
        *((100 * W - 1, True), (100 * W - W + 1, True), (100 * W - W, False)),
    ],
    "a step of one word of RFC 6479": [(0, True), (64, True), (0, False), (1, True), (63, True)],
    "refusal moves nothing": [(W, True), (0, False), (W, False), (W + 1, True), (1, False)],
    "near the end": [
        *((LAST - 1, True), (LAST, True), (LAST, False), (LAST - 1, False)),
        *((LAST - W + 1, True), (LAST - W, False), (LAST - 2, True)),
    ],
    "nothing comes behind the last": [(LAST, True), (0, False), (1, False), (LAST, False)],
    "from the first to the last": [(0, True), (LAST, True), (0, False), (LAST - W + 1, True)],
}
"""Counters in the order in which they come, and whether each is taken: the cases of RFC 6479
section 3 (new and ahead, inside the window, behind it, seen), each at its edges."""


@pytest.mark.parametrize("rows", REPLAYS.values(), ids=REPLAYS.keys())
def test_the_window_takes_and_refuses_as_the_table_says(rows: list[tuple[int, bool]]) -> None:
    window = ReplayWindow()
    assert [(counter, window.accept(counter)) for counter, _ in rows] == rows


steps = st.lists(
    st.one_of(
        st.integers(-3, 3),
        st.integers(-W - 2, -W + 2),
        st.integers(W - 2, W + 2),
        st.integers(-3 * W, 3 * W),
    ),
    max_size=200,
)


@given(st.sampled_from([0, 5, W, 10 * W, LAST - 5 * W, LAST - 1, LAST]), steps)
def test_the_window_agrees_with_a_set_wherever_the_steps_lead(begin: int, walk: list[int]) -> None:
    """Each counter is one step from the highest so far: most land on an edge of the window."""
    window, seen, highest = ReplayWindow(), set[int](), -1
    at = begin
    for step in (0, *walk):
        at = min(max(at + step, 0), LAST)
        fresh = at not in seen and at > highest - W
        assert window.accept(at) is fresh
        if fresh:
            seen.add(at)
        highest = at = max(highest, at)
