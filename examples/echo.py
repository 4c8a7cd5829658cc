#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Sends the packets of a queue back, MACs and IPs swapped: `echo.py INTERFACE [QUEUE]`, Ctrl-C."""

import sys
from contextlib import suppress

import pyxdp_gossip as xg


def swap(packet: memoryview) -> None:
    """In place. No checksum changes: a sum does not care about the order."""
    packet[0:6], packet[6:12] = bytes(packet[6:12]), bytes(packet[0:6])
    if packet[12:14] == b"\x08\x00":
        packet[26:30], packet[30:34] = bytes(packet[30:34]), bytes(packet[26:30])


interface, queue = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0
with suppress(KeyboardInterrupt), xg.XskProgram(interface) as program, xg.Umem(2048) as umem:
    socket = xg.XskSocket(umem, interface, queue)
    socket.fill.reserve(umem.frames)  # frames first: what comes before them is lost
    socket.fill.write([number * umem.frame_size for number in range(umem.frames)])
    socket.fill.submit(umem.frames)
    program.add(socket)
    print(f"{interface}, queue {queue}: {socket.mode}", flush=True)
    while True:
        burst = socket.rx.peek(min(64, socket.tx.free))
        for address, length in burst:
            swap(umem.frame(address, length))
        socket.tx.write(burst[: socket.tx.reserve(len(burst))])
        socket.tx.submit(len(burst))
        socket.rx.release(len(burst))
        sent = socket.completion.peek(64)
        socket.fill.write(sent[: socket.fill.reserve(len(sent))])  # there is room for all frames
        socket.fill.submit(len(sent))
        socket.completion.release(len(sent))
        done = socket.wakeup()
        socket.wait(0 if burst or sent or not done else 1)
