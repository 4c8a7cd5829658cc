# SPDX-License-Identifier: BSD-2-Clause
"""Facts of docs/adr/0012: what libxdp's dispatcher does with our XDP program beside another one.

The other is libxdp's own xdpfilt_alw_all, which passes everything and counts it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from cffi import FFI

from pyxdp_gossip import bpf_object, netlink
from pyxdp_gossip._libxdp import ffi as own_ffi
from pyxdp_gossip._libxdp import lib as own_lib
from pyxdp_gossip.bpf_object import OBJECT_DIR, BpfMap
from pyxdp_gossip.errors import HostError
from tests.kernel.dataplane_fixture import DEVICE, OUTSIDE, HostUnderTest, host_under_test
from tests.kernel.wire import wire
from tests.kernel.xsk_link import until
from tests.vm.guest.host_link import MTU, Ends, first

NATIVE: Final = 1  # enum xdp_attach_mode
PASS: Final = 2
FIRST, SECOND = 10, 60  # priorities: the smaller runs first
PINS: Final = Path("/sys/fs/bpf/xdp")  # libxdp's

ffi = FFI()
ffi.cdef("""
    struct xdp_program;
    struct bpf_object;
    struct xdp_program_opts {
        size_t sz; struct bpf_object *obj; void *opts; const char *prog_name;
        const char *find_filename; const char *open_filename; const char *pin_path;
        uint32_t id; int fd;
    };
    struct xdp_program *xdp_program__create(struct xdp_program_opts *opts);
    struct bpf_object *xdp_program__bpf_obj(struct xdp_program *program);
    int xdp_program__set_run_prio(struct xdp_program *program, unsigned int priority);
    int xdp_program__set_chain_call_enabled(struct xdp_program *program, unsigned int action,
                                            bool enabled);
    int xdp_program__attach(struct xdp_program *program, int ifindex, int mode, unsigned flags);
    int xdp_program__detach(struct xdp_program *program, int ifindex, int mode, unsigned flags);
    long libxdp_get_error(const void *pointer);
    void *libbpf_set_print(void *print);
    int vsnprintf(char *room, size_t size, const char *format, void *arguments);
""")


class Program:
    """One of libxdp's programs, and where it is attached."""

    def __init__(self, lib: Any, priority: int, **options: Any) -> None:
        self._lib = lib
        opts = ffi.new("struct xdp_program_opts *", {"sz": ffi.sizeof("struct xdp_program_opts")})
        for name, value in options.items():
            setattr(opts, name, value)
        self._handle = lib.xdp_program__create(opts)
        assert lib.libxdp_get_error(self._handle) == 0
        assert lib.xdp_program__set_run_prio(self._handle, priority) == 0
        assert lib.xdp_program__set_chain_call_enabled(self._handle, PASS, True) == 0

    def _attach(self) -> int:
        index = netlink.link(DEVICE).index
        return int(self._lib.xdp_program__attach(self._handle, index, NATIVE, 0))

    def attach(self) -> None:
        """Behind those of a smaller priority."""
        assert self._attach() == 0, own_ffi.string(own_lib.xg_last_message()).decode()

    def refusal(self) -> str:
        """What the kernel says of it; libbpf tells more than one message."""
        said: list[str] = []

        def keep(level: int, form: Any, arguments: Any) -> int:
            room = ffi.new("char[]", 1 << 16)
            libc.vsnprintf(room, 1 << 16, form, arguments)
            said.append(bytes(ffi.buffer(room)).split(b"\0")[0].decode(errors="replace"))
            return 0

        libbpf: Any = ffi.dlopen("libbpf.so.1")
        libc: Any = ffi.dlopen(None)
        callback: Any = ffi.callback("int(int, char *, void *)", keep)
        before = libbpf.libbpf_set_print(ffi.cast("void *", callback))
        try:
            assert self._attach() == -errno.EINVAL
        finally:
            libbpf.libbpf_set_print(before)
        return "".join(said)

    def detach(self) -> None:
        """It alone; the others go on."""
        index = netlink.link(DEVICE).index
        assert self._lib.xdp_program__detach(self._handle, index, NATIVE, 0) == 0

    def passed(self) -> int:
        """How many packets xdpfilt_alw_all passed."""
        address = int(ffi.cast("uintptr_t", self._lib.xdp_program__bpf_obj(self._handle)))
        handle = own_lib.bpf_object__find_map_by_name(
            own_ffi.cast("struct bpf_object *", address), b"xdp_stats_map"
        )
        stats = BpfMap("xdp_stats_map", own_lib.bpf_map__fd(handle), 5, 16, 4)
        values = memoryview(
            stats.lookup(PASS.to_bytes(4, "little"), 16 * bpf_object.possible_cpus()) or b""
        ).cast("Q")
        return sum(values[::2])


class Site:
    """A data path that is not attached, and programs that libxdp attaches."""

    def __init__(self, host: HostUnderTest) -> None:
        self.host = host
        self._lib = ffi.dlopen("libxdp.so.1")
        [path] = Path("/usr/lib").glob("*/bpf/xdpfilt_alw_all.o")
        self._name = ffi.new("char[]", str(path).encode())
        self._program = ffi.new("char[]", b"xg_redirect")

    def filter(self, priority: int = FIRST) -> Program:
        """The other program."""
        return Program(self._lib, priority, open_filename=self._name)

    def ours(self) -> Program:
        """Our program over the data path's maps, once more each time."""
        own_lib.xg_capture_messages()
        handle = own_lib.xg_open_object(str(OBJECT_DIR / "redirect.bpf.o").encode())
        for name, one in self.host.plane._maps.items():
            found = own_lib.bpf_object__find_map_by_name(handle, name.encode())
            if found != own_ffi.NULL:
                assert own_lib.bpf_map__set_max_entries(found, one.max_entries) == 0
                assert own_lib.bpf_map__reuse_fd(found, one.fd) == 0
        address = int(own_ffi.cast("uintptr_t", handle))
        return Program(
            self._lib,
            SECOND,
            obj=ffi.cast("struct bpf_object *", address),
            prog_name=self._program,
        )


@contextmanager
def opened(ends: Ends) -> Iterator[Site]:
    """The data path is loaded, and nothing is attached."""
    inside, outside = ends
    for namespace, device in ((inside, DEVICE), (outside, OUTSIDE)):
        namespace.ip(f"link set {device} mtu {MTU}")
    with host_under_test(inside, plane="xdp", mode="native") as host:
        yield inside.run(Site, host)


def test_two_programs_run_one_after_the_other(host_link: Ends) -> None:
    inside, outside = host_link
    with opened(host_link) as site, wire(outside, OUTSIDE) as far:
        programs = [inside.run(site.filter, priority) for priority in (FIRST, SECOND)]
        for one in programs:
            inside.run(one.attach)
        before = [one.passed() for one in programs]
        far.send(first("stray_forwarded").frame)
        until(lambda: all(one.passed() > n for one, n in zip(programs, before, strict=True)))
        for one in programs:
            inside.run(one.detach)
        assert bpf_object.attached_mode(inside.run(netlink.link, DEVICE).index) is None


def test_the_kernel_refuses_our_program_behind_this_dispatcher(host_link: Ends) -> None:
    inside = host_link[0]
    with opened(host_link) as site:
        ours = inside.run(site.ours)
        said = inside.run(ours.refusal)
        assert "Extension program changes packet data, while original does not" in said
        assert bpf_object.attached_mode(inside.run(netlink.link, DEVICE).index) is None


def test_the_kernel_puts_no_program_in_an_extensions_place(host_link: Ends) -> None:
    inside = host_link[0]
    with opened(host_link) as site:
        one = inside.run(site.filter)
        inside.run(one.attach)
        [pin] = PINS.glob("dispatch-*/prog0-link")
        link = own_lib.bpf_obj_get(str(pin).encode())
        assert link >= 0
        program = site.host.plane.program_fd("xg_redirect")
        assert own_lib.xg_link_update(link, program) == -errno.EINVAL
        os.close(link)
        inside.run(one.detach)


def test_our_own_link_is_refused_where_the_dispatcher_is(host_link: Ends) -> None:
    inside = host_link[0]
    with opened(host_link) as site:
        one = inside.run(site.filter)
        inside.run(one.attach)
        with pytest.raises(HostError, match="xdpfilt_alw_all"):
            inside.run(site.host.plane.attach_packets)
        inside.run(one.detach)
