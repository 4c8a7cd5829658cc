# SPDX-License-Identifier: BSD-2-Clause
"""Gossip keys, and the lines of a file that hold them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass

from pyxdp_gossip.errors import ConfigError

KEY_BYTES = 32  # AES-256 and ChaCha20 keys; also the entropy that HKDF-SHA256 can carry
KEY_ID_MAX = 65535  # 16 bits in the datagram's header; 0 says "not sealed"
KEYS_MAX = 16  # a rotation needs two; more only slow down the search for a mistake


@dataclass(frozen=True, slots=True)
class Key:
    """One gossip key: `id` is 1..65535, `secret` is (32,) bytes."""

    id: int
    secret: bytes

    def __repr__(self) -> str:
        return f"Key(id={self.id}, secret=...)"


def generate_key_line(random: Callable[[int], bytes], key_id: int = 1) -> str:
    """One line for a key file, without the line's end.

    Args:
        random: gives so many cryptographically random bytes (`os.urandom`).
        key_id: 1..65535, unique in the file.
    """
    return f"{key_id} {base64.b64encode(random(KEY_BYTES)).decode('ascii')}"


def parse_keys(text: str, label: str) -> tuple[Key, ...]:
    """Read a key file: one key a line, `id base64(32 bytes)`; blank lines and `#` lines pass.

    Raises:
        ConfigError: names the file, the line and what is expected; never shows a secret.
    """
    keys: list[Key] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        key = _parse_key(words)
        if key is None:
            raise ConfigError(
                f"{label}:{number}: expected `id base64(32 bytes)` with an id of 1..{KEY_ID_MAX}; "
                "make a line with `pyxdp-gossip keygen`"
            )
        if any(key.id == other.id for other in keys):
            raise ConfigError(f"{label}:{number}: key id {key.id} is there twice; change one")
        keys.append(key)
    if not 1 <= len(keys) <= KEYS_MAX:
        raise ConfigError(
            f"{label}: has {len(keys)} keys, expected 1..{KEYS_MAX}; "
            "make one with `pyxdp-gossip keygen`"
        )
    return tuple(keys)


def _parse_key(words: list[str]) -> Key | None:
    if len(words) != 2 or not (words[0].isascii() and words[0].isdigit() and len(words[0]) <= 5):
        return None
    try:
        secret = base64.b64decode(words[1], validate=True)
    except (binascii.Error, ValueError):
        return None
    key_id = int(words[0])
    return Key(key_id, secret) if len(secret) == KEY_BYTES and 1 <= key_id <= KEY_ID_MAX else None
