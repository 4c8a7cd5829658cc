# SPDX-License-Identifier: BSD-2-Clause
"""Connection ids that name their host: the draft's vectors, inverses, and any other bytes."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from pyxdp_gossip import _native
from pyxdp_gossip.forwarder import pack_layouts
from pyxdp_gossip.quic_lb import QuicLb, seal, unseal
from tests.model_quic import Layout, host_named, opened

KEY = bytes.fromhex("8f95f09245765f80256934e50c66207f")
EXAMPLE_KEY = bytes.fromhex("fdf726a9893ec05c0632d3956680baf0")

# draft-ietf-quic-load-balancers-21, appendix B, and the example of section 5.4.2:
# (config id, key, server id, nonce, connection id). The draft misprints two of them. The second
# one's nonce has nine digits, and its id begins with 20, which would say that nothing follows; the
# id of the sixth begins with 12, as if of configuration 0.
VECTORS = [
    (0, None, "c4605e", "4504cc4f", "07c4605e4504cc4f"),
    (1, None, "350d28b420", "3487d970b0", "2a350d28b4203487d970b0"),
    (0, KEY, "ed793a", "ee080dbf", "0720b1d07b359d3c"),
    (1, KEY, "ed793a51d49b8f5fab65", "ee080dbf48", "2fcc381bc74cb4fbad2823a3d1f8fed2"),
    (2, KEY, "ed793a51d49b8f5f", "ee080dbf48c0d1e5", "504dd2d05a7b0de9b2b9907afb5ecf8cc3"),
    (3, KEY, "ed793a51d49b8f5fab", "ee080dbf48c0d1e55d", "725779c9cc86beb3a3a4a3ca96fce4bfe0cdbc"),
    (0, EXAMPLE_KEY, "31441a", "9c69c275", "0767947d29be054a"),
]

SHORT, HANDSHAKE = b"\x40", bytes.fromhex("e000000001")


@st.composite
def layouts(draw: st.DrawFn) -> QuicLb:
    server_id = draw(st.integers(2, 15))
    nonce = draw(st.integers(4, 19 - server_id))
    key = draw(st.none() | st.binary(min_size=16, max_size=16))
    return QuicLb(draw(st.integers(0, 6)), server_id, nonce, key)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector[-1])
def test_the_vectors_of_the_draft(vector: tuple[int, bytes | None, str, str, str]) -> None:
    config_id, key, server_id, nonce, cid = vector
    text, made = bytes.fromhex(server_id + nonce), bytes.fromhex(cid)
    lengths = len(server_id) // 2, len(nonce) // 2
    layout = QuicLb(config_id, *lengths, key)
    assert seal(layout, text) == made
    assert unseal(layout, made[1:]) == text
    assert opened(Layout(*lengths, key), made[1:]) == text  # the model's reading


@given(layouts(), st.integers(0, 65000), st.data())
def test_decoding_inverts_encoding_and_the_data_path_agrees(
    layout: QuicLb, host: int, data: st.DataObject
) -> None:
    nonce = data.draw(st.binary(min_size=layout.nonce_length, max_size=layout.nonce_length))
    cid = layout.encode(host, nonce)
    assert len(cid) == layout.length == 1 + (cid[0] & 0x1F)
    assert cid[0] >> 5 == layout.config_id
    assert layout.decode(cid) == host
    assert layout.decode(cid + b"the rest") == host
    assert layout.decode(cid[:-1]) is None
    packed = pack_layouts([layout])
    assert _native.quic_owner(packed, SHORT + cid) == host
    assert _native.quic_owner(packed, HANDSHAKE + bytes([len(cid)]) + cid) == host


@given(layouts(), st.binary(max_size=24))
def test_any_bytes_are_decoded_as_the_model_and_the_data_path_do(
    layout: QuicLb, noise: bytes
) -> None:
    for cid in (noise, bytes([layout.config_id << 5]) + bytes(layout.server_id_length) + noise):
        host = layout.decode(cid[:20])
        model = {layout.config_id: Layout(layout.server_id_length, layout.nonce_length, layout.key)}
        assert host_named(model, SHORT + cid) == host
        assert _native.quic_owner(pack_layouts([layout]), SHORT + cid) == host
        assert host is None or 0 <= host <= 65000


@given(layouts(), st.binary(max_size=40))
def test_any_datagram_names_whom_the_model_says(layout: QuicLb, noise: bytes) -> None:
    model = {layout.config_id: Layout(layout.server_id_length, layout.nonce_length, layout.key)}
    for datagram in (noise, HANDSHAKE + noise, bytes.fromhex("d06b3343cf") + noise):
        assert _native.quic_owner(pack_layouts([layout]), datagram) == host_named(model, datagram)


@given(st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16))
def test_a_block_is_decrypted_as_by_cryptography(key: bytes, plain: bytes) -> None:
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    block = encryptor.update(bytes(2) + plain[2:]) + encryptor.finalize()
    layout = QuicLb(2, 2, 14, key)
    assert _native.quic_owner(pack_layouts([layout]), SHORT + b"\x50" + block) == 0


def test_two_keys_read_one_id_as_two_texts() -> None:
    one, other = QuicLb(0, 8, 4, KEY), QuicLb(0, 8, 4, EXAMPLE_KEY)
    cid = one.encode(7, b"1234")
    assert (one.decode(cid), other.decode(cid)) == (7, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config_id": 7}, "config_id is 7, expected 0..6"),
        ({"config_id": -1}, "config_id is -1"),
        ({"server_id_length": 1}, "server_id_length is 1, expected 2..15"),
        ({"server_id_length": 16}, "server_id_length is 16"),
        ({"nonce_length": 3}, "nonce_length is 3, expected 4..17"),
        ({"server_id_length": 15, "nonce_length": 5}, "nonce_length is 5, expected 4..4"),
        ({"key": b"short"}, "the key has 5 bytes, expected 16"),
    ],
    ids=lambda value: str(value),
)
def test_a_layout_that_cannot_be_is_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QuicLb(**change)  # type: ignore[arg-type]


def test_a_host_or_nonce_that_does_not_fit_is_refused() -> None:
    layout = QuicLb()
    with pytest.raises(ValueError, match=r"host is 65001, expected 0\.\.65000"):
        layout.encode(65001, bytes(6))
    with pytest.raises(ValueError, match="the nonce has 5 bytes, expected 6"):
        layout.encode(1, bytes(5))


def test_a_key_is_never_shown() -> None:
    assert "key" not in repr(QuicLb(key=KEY))


def test_what_is_no_array_of_layouts_is_refused() -> None:
    with pytest.raises(ValueError, match="layouts is 3 bytes"):
        _native.quic_owner(b"123", b"")
    with pytest.raises(ValueError, match="key is 15 bytes"):
        _native.pack_quic_layout(2, 6, bytes(15))
    with pytest.raises(OSError, match="Invalid argument"):
        _native.pack_quic_layout(2, 18)
