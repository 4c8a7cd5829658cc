# SPDX-License-Identifier: BSD-2-Clause
"""Seals and opens datagrams: sub-keys, nonces, replay windows, and the tunnel's cookie."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from pyxdp_gossip.digests import hmac_sha256, sha256
from pyxdp_gossip.errors import PeerError
from pyxdp_gossip.gossip.messages import OURS, Message, Versions
from pyxdp_gossip.gossip.wire import (
    HEADER,
    DatagramType,
    Header,
    decode_header,
    decode_payload,
    encode_header,
)
from pyxdp_gossip.key_file import Key

REPLAY_WINDOW = 8192  # datagrams that may overtake each other: as many as a socket keeps
SUBKEYS_MAX = 1024  # (key, sender, incarnation) triples kept; only authentic ones get in
SENDERS_OPEN = 2048  # with windows: twice the members; of others only where they stood is kept
WINDOWS_PER_SENDER = 4  # this start, the one before it, and two hosts with one id
COOKIE_BYTES = 8  # what GUE's private data carries of the keyed cookie
INSECURE_SECRET = sha256(b"pyxdp-gossip insecure: known to everybody")
"""The secret of POPs that chose to have none: their cookies only catch mistakes."""

_BLOCKS = REPLAY_WINDOW // 8 + 1  # one more than the window, which begins inside a block
_SUBKEY_INFO = b"pyxdp-gossip datagram v1 "
_COOKIE_INFO = b"pyxdp-gossip tunnel cookie v1"

Aead = AESGCM | ChaCha20Poly1305
CIPHERS: dict[str, Callable[[bytes], Aead]] = {
    "aes-256-gcm": AESGCM,
    "chacha20-poly1305": ChaCha20Poly1305,
}


def hkdf_sha256(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """HKDF with SHA-256.

    Source: RFC 5869 section 2.
    """
    return HKDF(algorithm=SHA256(), length=length, salt=salt, info=info).derive(secret)


def tunnel_cookie(secret: bytes, source: bytes, destination: bytes) -> bytes:
    """The cookie that a tunnelled packet carries from `source` to `destination`.

    Args:
        secret: (32,) bytes, the sending key, or `INSECURE_SECRET`.
        source: (16,) bytes, outer source address, IPv4 as IPv4-mapped.
        destination: (16,) bytes, likewise.

    Returns:
        (8,) bytes.

    Raises:
        ValueError: an address is not 16 bytes.
    """
    if len(source) != 16 or len(destination) != 16:
        raise ValueError(f"addresses are {len(source)} and {len(destination)} bytes, expected 16")
    key = hkdf_sha256(secret, b"", _COOKIE_INFO, 32)
    return hmac_sha256(key, source + destination)[:COOKIE_BYTES]


class UnreadableVersionError(PeerError):
    """An authentic datagram of a version that this host does not read."""

    def __init__(self, header: Header) -> None:
        super().__init__("unknown_version")
        self.header = header


class ReplayWindow:
    """Which counters of one sub-key were seen: each is accepted once.

    Args:
        highest: all counters up to this one count as seen.

    Source: RFC 6479 (its blocks are of 8 bits here).
    """

    __slots__ = ("_seen", "highest")

    def __init__(self, highest: int = -1) -> None:
        self.highest = highest
        # Bit counter & 7 of byte (counter >> 3) % _BLOCKS; no bit beyond `highest` is set.
        self._seen = bytearray(b"\xff" * _BLOCKS if highest >= 0 else _BLOCKS)
        if highest >= 0:
            self._seen[(highest >> 3) % _BLOCKS] = (2 << (highest & 7)) - 1

    def accept(self, counter: int) -> bool:
        """Note a counter; False if it was seen or is too old to know."""
        ahead = counter - self.highest
        block, bit = (counter >> 3) % _BLOCKS, 1 << (counter & 7)
        if ahead > 0:
            self._advance(counter)
        elif ahead <= -REPLAY_WINDOW or self._seen[block] & bit:
            return False
        self._seen[block] |= bit
        return True

    def _advance(self, counter: int) -> None:
        old, new = self.highest >> 3, counter >> 3
        if new - old < _BLOCKS:
            for block in range(old + 1, new + 1):
                self._seen[block % _BLOCKS] = 0
        else:
            self._seen = bytearray(_BLOCKS)
        self.highest = counter


class Envelope:
    """Seals this start's datagrams with the first key and opens those of any key.

    Args:
        host: this host's id.
        incarnation: of this start, 64 bits.
        salt: random for this start, 64 bits: with it no clock can make a nonce repeat.
        site: POP of this host; datagrams of others are refused.
        keys: first sends, any opens; empty for a POP that seals nothing.
        cipher: a name of `CIPHERS`; the same on all hosts.
        versions: what this host reads and writes.
    """

    def __init__(
        self,
        host: int,
        incarnation: int,
        salt: int,
        *,
        site: int = 0,
        keys: Sequence[Key] = (),
        cipher: str = "aes-256-gcm",
        versions: Versions = OURS,
    ) -> None:
        self.versions = versions
        self._site = site
        self._host = host
        self.incarnation = incarnation
        self.salt = salt
        self._counter = 0
        self._aead = CIPHERS[cipher]
        self._secrets: dict[int, bytes] = {}
        self._key_id = 0
        self._subkeys: OrderedDict[tuple[int, int, int, int], Aead] = OrderedDict()
        self._windows: OrderedDict[int, dict[tuple[int, int], ReplayWindow]] = OrderedDict()
        self._closed: dict[int, tuple[tuple[int, int], int]] = {}
        self._sealing: Aead | None = None
        if keys:
            self.change_keys(keys)

    def change_keys(self, keys: Sequence[Key]) -> None:
        """Seal with the first of these from now on, and open with any; the counter goes on.

        Raises:
            ValueError: there is none.
        """
        if not keys:
            raise ValueError("keys is empty, expected 1 or more")
        self._secrets = {key.id: key.secret for key in keys}
        self._key_id = keys[0].id
        self._subkeys.clear()
        self._sealing = self._derive(self._key_id, self._host, self.incarnation, self.salt)

    def read(self, data: bytes) -> tuple[Header, list[Message]]:
        """Open a datagram of a peer, and read its sections.

        Raises:
            PeerError: as `open`, or a section is malformed.
        """
        header, payload = self.open(data)
        return header, decode_payload(payload)

    def _derive(self, key_id: int, sender: int, incarnation: int, salt: int) -> Aead:
        info = _SUBKEY_INFO + sender.to_bytes(2, "big") + incarnation.to_bytes(8, "big")
        secret = self._secrets[key_id]
        return self._aead(hkdf_sha256(secret, salt.to_bytes(8, "big"), info, 32))

    def secret_of_start(self, purpose: bytes) -> bytes:
        """(32,) bytes for one purpose inside this start; of its key, if it has one."""
        secret = self._secrets.get(self._key_id, INSECURE_SECRET)
        start = self.incarnation.to_bytes(8, "big") + self.salt.to_bytes(8, "big")
        return hkdf_sha256(secret, start, b"pyxdp-gossip " + purpose, 32)

    def seal(self, kind: DatagramType, payload: bytes, version: int = OURS.lowest) -> bytes:
        """One datagram; each has the next counter, so no nonce is used twice."""
        counter = self._counter
        self._counter += 1
        header = encode_header(
            Header(
                *(kind, self._sealing is None, self._key_id, self._site, self._host),
                *(self.incarnation, self.salt, counter, version),
            )
        )
        if self._sealing is None:
            return header + payload
        return header + self._sealing.encrypt(_nonce(counter), payload, header)

    def open(self, data: bytes) -> tuple[Header, bytes]:
        """Check and open a datagram of a peer.

        Raises:
            PeerError: malformed, of another site, plain where sealed ones are expected or the
                other way round, an unknown key, a bad seal, seen before, or of a version that
                this host does not read.
        """
        header = decode_header(data)
        if header.site != self._site:
            raise PeerError("wrong_site")
        if header.plain != (self._sealing is None):
            raise PeerError("plain_refused" if header.plain else "sealed_refused")
        payload = data[HEADER.size :] if header.plain else self._decrypt(header, data)
        self._check_replay(header)
        self._check_version(header)
        return header, payload

    def _decrypt(self, header: Header, data: bytes) -> bytes:
        if header.key_id not in self._secrets:
            raise PeerError("unknown_key")
        name = (header.key_id, header.sender, header.incarnation, header.salt)
        aead = self._subkeys.get(name) or self._derive(*name)
        sealed, clear = data[HEADER.size :], data[: HEADER.size]
        try:
            payload = aead.decrypt(_nonce(header.counter), sealed, clear)
        except InvalidTag:
            raise PeerError("bad_seal") from None
        self._subkeys[name] = aead
        self._subkeys.move_to_end(name)
        if len(self._subkeys) > SUBKEYS_MAX:
            self._subkeys.popitem(last=False)
        return payload

    def _check_version(self, header: Header) -> None:
        """After the seal only, or a forger could name hosts."""
        if header.version not in self.versions:
            raise UnreadableVersionError(header)

    def _check_replay(self, header: Header) -> None:
        """After the seal only, or a forger could move the window."""
        start = (header.incarnation, header.salt)
        window = self._windows.get(header.sender, {}).get(start)
        if window is None:
            window = self._open_window(header.sender, start)
        self._windows.move_to_end(header.sender)
        if not window.accept(header.counter):
            raise PeerError("replayed")

    def _open_window(self, sender: int, start: tuple[int, int]) -> ReplayWindow:
        """For a start that has none: it is new, or its sender was not heard for long.

        What is older than all kept starts may be a replay from before they were heard.
        """
        windows = self._windows.get(sender, {})
        closed, highest = self._closed.get(sender, ((0, 0), -1))
        is_full = len(windows) == WINDOWS_PER_SENDER
        if start < closed or (is_full and start < min(windows)):
            raise PeerError("replayed")
        if is_full:
            del windows[min(windows)]
        if not windows:
            if len(self._windows) == SENDERS_OPEN:
                self._close_windows()
            self._windows[sender] = windows
        windows[start] = ReplayWindow(highest if start == closed else -1)
        return windows[start]

    def _close_windows(self) -> None:
        """Of the sender not heard for longest keep one place, and take nothing from before it: so
        nothing is accepted twice, and what had been overtaken is lost."""
        sender, windows = self._windows.popitem(last=False)
        newest = max(windows)
        self._closed[sender] = newest, windows[newest].highest


def _nonce(counter: int) -> bytes:
    """(12,) bytes; RFC 5116 section 3.2, with the fixed part in the sub-key instead."""
    return counter.to_bytes(12, "big")
