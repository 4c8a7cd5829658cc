# SPDX-License-Identifier: BSD-2-Clause
"""Reads the tables [[quic]]: how connection ids of QUIC services name their host."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path

from pyxdp_gossip.config_table import TableReader
from pyxdp_gossip.errors import ConfigError
from pyxdp_gossip.quic_lb import (
    CONFIG_ID_MAX,
    KEY_BYTES,
    NONCE_MIN,
    PLAINTEXT_MAX,
    SERVER_ID_MAX,
    SERVER_ID_MIN,
    QuicLb,
)
from pyxdp_gossip.session import Service

LAYOUTS_MAX = CONFIG_ID_MAX + 1
KEYS = ("config_id", "server_id_length", "nonce_length", "key_file")
"""Every key of [[quic]]."""


def read_layouts(
    tables: Sequence[TableReader], services: Sequence[Service], folder: Path, label: str
) -> tuple[tuple[QuicLb, ...], tuple[str, ...]]:
    """The layouts, and warnings.

    Args:
        tables: [[quic]], at most LAYOUTS_MAX.
        folder: what a relative `key_file` is relative to.
        label: how errors name the source.

    Raises:
        ConfigError: a value is wrong, or QUIC services and layouts do not belong together.
    """
    layouts: list[QuicLb] = []
    warnings: tuple[str, ...] = ()
    for table in tables:
        config_id = table.integer("config_id", 0, CONFIG_ID_MAX, 0)
        if any(config_id == other.config_id for other in layouts):
            raise table.error("config_id", config_id, "each layout's own; change one of the two")
        server_id = table.integer("server_id_length", SERVER_ID_MIN, SERVER_ID_MAX, SERVER_ID_MIN)
        nonce = table.integer("nonce_length", NONCE_MIN, PLAINTEXT_MAX - server_id, NONCE_MIN + 2)
        key, more = _read_key(table, folder)
        layouts.append(QuicLb(config_id, server_id, nonce, key))
        warnings += more
    if any(service.quic for service in services) and not layouts:
        raise ConfigError(f"{label}: a [[service]] has `quic = true`, but there is no [[quic]]")
    return tuple(layouts), warnings


def _read_key(table: TableReader, folder: Path) -> tuple[bytes | None, tuple[str, ...]]:
    """The key of a file that holds nothing but its hexadecimal digits."""
    name = table.text("key_file", optional=True)
    if name is None:
        return None, ()
    path = folder / name
    wanted = f"a file with {2 * KEY_BYTES} hexadecimal digits; see `openssl rand -hex {KEY_BYTES}`"
    try:
        mode, text = path.stat().st_mode, path.read_text(encoding="ascii")
    except OSError as error:
        raise table.error("key_file", str(path), f"{wanted} ({error.strerror})") from None
    except UnicodeDecodeError:
        raise table.error("key_file", str(path), wanted) from None
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise table.error("key_file", str(path), wanted)
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        return key, (f"{path}: other users can read this key; chmod 600 it",)
    return key, ()
