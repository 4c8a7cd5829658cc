# SPDX-License-Identifier: BSD-2-Clause
"""A real QUIC server for one host of a box: answers each line with its host's id and the line.

Its connection ids are those of the host's configuration. aioquic draws ids by os.urandom, so here
the module's `os` draws those of an id's length by `quic_lb`, with fresh random nonces.

Usage: python -m tests.box.quic_server CONFIG VIP PORT READY_FILE
"""

from __future__ import annotations

import asyncio
import datetime
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from aioquic.asyncio import serve
from aioquic.quic import connection as quic_connection
from aioquic.quic.configuration import QuicConfiguration
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pyxdp_gossip.config import Config

ALPN = "lines"
A_DAY = datetime.timedelta(days=1)


def give_it_an_identity(configuration: QuicConfiguration) -> None:
    """A certificate that the server signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pop")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - A_DAY).not_valid_after(now + A_DAY)
    configuration.certificate = builder.sign(key, hashes.SHA256())
    configuration.private_key = key


def draw_ids_by(config: Config) -> int:
    """Makes aioquic's connection ids name this host; their length."""
    layout, host = config.quic[0], config.host.id

    def urandom(size: int) -> bytes:
        if size == layout.length:
            return layout.encode(host, os.urandom(layout.nonce_length))
        return os.urandom(size)

    quic_connection.os = SimpleNamespace(urandom=urandom)  # type: ignore[attr-defined]
    return layout.length


async def answer(host: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(b"%d %s" % (host, line))


async def main(path: str, vip: str, port: str, ready: str) -> None:
    config = Config.load(path)
    configuration = QuicConfiguration(
        is_client=False, alpn_protocols=[ALPN], connection_id_length=draw_ids_by(config)
    )
    give_it_an_identity(configuration)
    tasks: set[Any] = set()

    def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.ensure_future(answer(config.host.id, reader, writer)))

    await serve(vip, int(port), configuration=configuration, stream_handler=handle)
    Path(ready).touch()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
