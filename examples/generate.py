# SPDX-License-Identifier: BSD-2-Clause
"""Sends packets to a MAC address, prints the rate: `generate.py INTERFACE COUNT [SIZE [MAC]]`."""

import sys
import time

import pyxdp_gossip as xg

HEAD = b"\x02\0\0\0\0\x01\x88\xb5"  # source, and the EtherType for local experiments (IEEE 802)


def generate(interface: str, count: int, size: int = 60, mac: str = "ff:ff:ff:ff:ff:ff") -> None:
    head = bytes.fromhex(mac.replace(":", "")) + HEAD
    with xg.Umem() as umem, xg.XskSocket(umem, interface) as socket:
        free = [number * umem.frame_size for number in range(umem.frames)]
        sent, start = 0, time.perf_counter()
        while sent < count or len(free) < umem.frames:
            room = socket.tx.reserve(min(64, count - sent, len(free), socket.tx.free))
            burst = [(free.pop(), size) for _ in range(room)]
            for number, (address, length) in enumerate(burst, sent):
                packet = (head + number.to_bytes(8)).ljust(length, b"\0")
                umem.frame(address, length)[:] = packet[:length]
            socket.tx.write(burst)
            socket.tx.submit(room)
            sent += room
            socket.wakeup()
            done = socket.completion.peek(64)
            socket.completion.release(len(done))
            free += [address // umem.frame_size * umem.frame_size for address in done]
        rate = sent / (time.perf_counter() - start)
        print(f"{sent} packets, {rate:,.0f} a second, {socket.mode}")


try:
    generate(sys.argv[1], *map(int, sys.argv[2:4]), *sys.argv[4:])
except (KeyboardInterrupt, IndexError, TypeError, ValueError, xg.HostError) as error:
    print(f"{error}\nusage: generate.py INTERFACE COUNT [SIZE [MAC]]", file=sys.stderr)
    sys.exit(2)
