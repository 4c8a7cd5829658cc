# SPDX-License-Identifier: BSD-2-Clause
"""A host's TCP server that takes or gives many bytes on one connection, and says what it saw.

Run as `python bulk.py IPV4 IPV6 PORT`; it starts quickly, as it needs nothing of the package. A
client first sends one letter: "U", then BULK_BYTES follow, and the server answers with their
digest; or "D" and a byte more, and the server sends them.
"""

from __future__ import annotations

import hashlib
import random
import socket
import sys
import threading
from contextlib import closing
from typing import Final

BULK_BYTES: Final = 10_000_000
READY: Final = b"!"  # the answer to the letter
CHUNK: Final = 65536


def content() -> bytes:
    """The same on both sides."""
    return random.Random(1500).randbytes(BULK_BYTES)


def receive(connection: socket.socket, count: int) -> bytes:
    """So many bytes; fewer, if the other side ends before."""
    data = bytearray()
    while len(data) < count and (chunk := connection.recv(min(CHUNK, count - len(data)))):
        data += chunk
    return bytes(data)


def _serve(connection: socket.socket, data: bytes) -> None:
    with closing(connection):
        kind = connection.recv(1)
        connection.sendall(READY)
        if kind == b"U":
            connection.sendall(hashlib.sha256(receive(connection, BULK_BYTES)).digest())
        elif kind == b"D":
            connection.recv(1)
            connection.sendall(data)


def _accept(listener: socket.socket, data: bytes) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_serve, args=(connection, data), daemon=True).start()


def main() -> None:
    """Serves until it is killed."""
    vip4, vip6, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
    data = content()
    listeners = [
        socket.create_server((vip4, port)),
        socket.create_server((vip6, port), family=socket.AF_INET6),
    ]
    threads = [threading.Thread(target=_accept, args=(one, data)) for one in listeners]
    for thread in threads:
        thread.start()


if __name__ == "__main__":
    main()
