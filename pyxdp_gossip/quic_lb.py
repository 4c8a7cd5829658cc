# SPDX-License-Identifier: BSD-2-Clause
"""Connection ids that name their host: for QUIC servers behind this POP (pure).

The server application lets its QUIC library take its connection ids from here, so that each host
of the POP reads from an id whose connection it is: `config.quic[0].encode(host, nonce)`.

Source: draft-ietf-quic-load-balancers-21 ("QUIC-LB").
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

HOST_MAX: Final = 65000  # XG_HOST_MAX
CONFIG_ID_MAX: Final = 6  # three bits; 7 says "not routable"
SERVER_ID_MIN, SERVER_ID_MAX = 2, 15  # host ids have two octets
NONCE_MIN: Final = 4  # section 5.3
PLAINTEXT_MAX: Final = 19  # QUIC version 1 allows ids of 20 octets
KEY_BYTES: Final = 16  # AES-128
BLOCK_BYTES: Final = 16
PASSES: Final = (1, 2, 3, 4)


@dataclass(frozen=True, slots=True)
class QuicLb:
    """One layout of connection ids, which all hosts of the POP share.

    Attributes:
        config_id: 0..6, the first three bits of each id: which layout it is.
        server_id_length: octets that name the host, 2..15; further ones in front are zero, and
            make it less likely that an id of somebody else names a host.
        nonce_length: octets that tell the ids of one host apart, 4 or more; both lengths are at
            most 19 together.
        key: (16,) bytes; None: whoever sees an id sees its host, and can tell which ids belong
            to one host.

    Raises:
        ValueError: a length or the key is out of range.
    """

    config_id: int = 0
    server_id_length: int = 2
    nonce_length: int = 6
    key: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.config_id <= CONFIG_ID_MAX:
            raise ValueError(f"config_id is {self.config_id}, expected 0..{CONFIG_ID_MAX}")
        if not SERVER_ID_MIN <= self.server_id_length <= SERVER_ID_MAX:
            allowed = f"{SERVER_ID_MIN}..{SERVER_ID_MAX}"
            raise ValueError(f"server_id_length is {self.server_id_length}, expected {allowed}")
        most = PLAINTEXT_MAX - self.server_id_length
        if not NONCE_MIN <= self.nonce_length <= most:
            raise ValueError(f"nonce_length is {self.nonce_length}, expected {NONCE_MIN}..{most}")
        if self.key is not None and len(self.key) != KEY_BYTES:
            raise ValueError(f"the key has {len(self.key)} bytes, expected {KEY_BYTES}")

    @property
    def length(self) -> int:
        """Octets of an id."""
        return 1 + self.server_id_length + self.nonce_length

    def encode(self, host: int, nonce: bytes) -> bytes:
        """A connection id of a host.

        Args:
            host: 0..65000, as `id` of [host].
            nonce: (nonce_length,) bytes, never twice by one host with one key; random bytes are
                right, and needed where there is no key.

        Returns:
            (length,) bytes. The first octet also says their number, less one.

        Raises:
            ValueError: the host or the nonce is out of range.
        """
        if not 0 <= host <= HOST_MAX:
            raise ValueError(f"host is {host}, expected 0..{HOST_MAX}")
        if len(nonce) != self.nonce_length:
            raise ValueError(f"the nonce has {len(nonce)} bytes, expected {self.nonce_length}")
        return seal(self, host.to_bytes(self.server_id_length) + nonce)

    def decode(self, cid: bytes) -> int | None:
        """The host that an id names.

        Args:
            cid: a connection id, or the bytes of a datagram from its id on.

        Returns:
            A host id; None: the id is shorter, of another layout, or names nobody.
        """
        if len(cid) < self.length or cid[0] >> 5 != self.config_id:
            return None
        plaintext = unseal(self, cid[1 : self.length])
        host = int.from_bytes(plaintext[: self.server_id_length])
        return host if host <= HOST_MAX else None


def seal(layout: QuicLb, plaintext: bytes) -> bytes:
    """The id with this server id and nonce, which are (length - 1,) bytes together."""
    first = bytes([layout.config_id << 5 | len(plaintext)])
    if layout.key is None:
        return first + plaintext
    if len(plaintext) == BLOCK_BYTES:
        return first + _encrypt(layout.key, plaintext)
    return first + _feistel(layout.key, plaintext, PASSES)


def unseal(layout: QuicLb, body: bytes) -> bytes:
    """Server id and nonce of an id's octets behind the first; the inverse of `seal`."""
    if layout.key is None:
        return body
    if len(body) == BLOCK_BYTES:
        decryptor = Cipher(algorithms.AES(layout.key), modes.ECB()).decryptor()
        return decryptor.update(body) + decryptor.finalize()
    return _feistel(layout.key, body, PASSES[::-1])


def _encrypt(key: bytes, block: bytes) -> bytes:
    """AES-128 of one block: the draft asks for the bare block cipher."""
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    return encryptor.update(block) + encryptor.finalize()


def _feistel(key: bytes, text: bytes, passes: tuple[int, ...]) -> bytes:
    """Four rounds over two halves, which are 4 bits a byte of the text; section 5.4.2.

    In bytes, the left half ends with four zero bits where the number of bytes is odd, and the right
    one begins with them.
    """
    length, bits = len(text), 4 * len(text)
    half = (length + 1) // 2
    spare = 8 * half - bits
    mask = (1 << bits) - 1
    left, right = int.from_bytes(text) >> bits, int.from_bytes(text) & mask
    for number in passes:
        source = left << spare if number % 2 else right
        block = source.to_bytes(half).ljust(14, b"\0") + bytes([length, number])
        result = int.from_bytes(_encrypt(key, block)[:half])
        if number % 2:
            right ^= result & mask
        else:
            left ^= result >> spare
    return (left << bits | right).to_bytes(length)
