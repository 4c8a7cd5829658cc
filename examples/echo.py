# SPDX-License-Identifier: BSD-2-Clause
"""Sends the packets of a queue back, MACs and IPs swapped: `echo.py INTERFACE [QUEUE]`, Ctrl-C."""

import sys
from contextlib import suppress

import pyxdp_gossip as xg


def echo(interface: str, queue: str = "0") -> None:
    with xg.XskProgram(interface) as program, xg.Umem(2048) as umem:
        socket = xg.XskSocket(umem, interface, int(queue))
        socket.fill.reserve(umem.frames)  # frames first: what comes before them is lost
        socket.fill.write([number * umem.frame_size for number in range(umem.frames)])
        socket.fill.submit(umem.frames)
        program.add(socket)
        print(f"{interface}, queue {queue}: {socket.mode}", flush=True)
        while True:
            burst = socket.rx.peek(min(64, socket.tx.free))
            for address, length in burst:
                packet = umem.frame(address, length)  # a sum does not care about the order
                packet[0:12] = bytes(packet[6:12]) + bytes(packet[0:6])
                if packet[12:14] == b"\x08\x00":
                    packet[26:34] = bytes(packet[30:34]) + bytes(packet[26:30])
            socket.tx.write(burst[: socket.tx.reserve(len(burst))])
            socket.tx.submit(len(burst))
            socket.rx.release(len(burst))
            sent = socket.completion.peek(64)
            socket.fill.write(sent[: socket.fill.reserve(len(sent))])  # there is room for all
            socket.fill.submit(len(sent))
            socket.completion.release(len(sent))
            socket.wait(0 if not socket.wakeup() or burst or sent else 1)


try:
    with suppress(KeyboardInterrupt):
        echo(*sys.argv[1:])
except (xg.HostError, TypeError, ValueError) as error:
    sys.exit(print(f"{error}\nusage: echo.py INTERFACE [QUEUE]", file=sys.stderr) or 2)
