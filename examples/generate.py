#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Sends COUNT packets of 60 bytes to a MAC address and prints the rate."""

import argparse
import time

import pyxdp_gossip as xg

BURST = 64
parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("interface")
parser.add_argument("count", type=int)
parser.add_argument("--mac", default="ff:ff:ff:ff:ff:ff", help="where to (default: all)")
parser.add_argument("--queue", type=int, default=0)
wanted = parser.parse_args()

ETHERTYPE = b"\x88\xb5"  # IEEE 802: for local experiments
head = bytes.fromhex(wanted.mac.replace(":", "")) + b"\x02\0\0\0\0\x01" + ETHERTYPE
with xg.Umem() as umem, xg.XskSocket(umem, wanted.interface, wanted.queue) as socket:
    free = [number * umem.frame_size for number in range(umem.frames)]
    sent = done = 0
    start = time.perf_counter()
    while done < wanted.count:
        size = socket.tx.reserve(min(BURST, wanted.count - sent, len(free), socket.tx.free))
        burst = [(free.pop(), 60) for _ in range(size)]
        for number, (address, length) in enumerate(burst, sent):
            umem.frame(address, length)[:] = (head + number.to_bytes(8)).ljust(length, b"\0")
        socket.tx.write(burst)
        socket.tx.submit(size)
        sent += size
        socket.wakeup()
        completed = socket.completion.peek(BURST)
        socket.completion.release(len(completed))
        free += completed
        done += len(completed)
    rate = done / (time.perf_counter() - start)
    print(f"{done} packets, {rate:,.0f} a second, {socket.mode}")
