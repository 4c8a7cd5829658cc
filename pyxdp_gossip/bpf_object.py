# SPDX-License-Identifier: BSD-2-Clause
"""BPF objects, maps and links over libbpf (cffi); for set-up, never per packet."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from pyxdp_gossip._libxdp import ffi, lib
from pyxdp_gossip.errors import HostError

OBJECT_DIR: Final = Path(__file__).parent / "bpf"
TEST_RUN_ROOM: Final = 4096  # one page: what the kernel gives a test frame without fragments

XDP_ACTIONS: Final = ("aborted", "drop", "pass", "tx", "redirect")

OTHER_PROGRAM: Final = (
    "another XDP program is attached: `ip link set dev IF xdp off` (or `xdpgeneric off`); "
    "one of a killed agent with another id goes with its pins"
)

# What an errno of the bpf system call means to the operator.
HINTS: Final[Mapping[int, str]] = {
    errno.EPERM: "needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON: run as root",
    errno.EACCES: "the kernel's verifier refused the program",
    errno.ENOMEM: "out of memory: make the session table smaller ([table] sessions_v4)",
    errno.E2BIG: "the map is too large: make the session table smaller ([table] sessions_v4)",
    errno.EBADF: "not a cgroup v2 folder: set [dataplane] cgroup",
    errno.EOPNOTSUPP: 'the driver has no native XDP: set [dataplane] mode = "skb"',
    errno.EBUSY: OTHER_PROGRAM,
    errno.EEXIST: OTHER_PROGRAM,
    errno.ERANGE: "the driver refuses: the MTU is too large for native XDP, or too few queues",
    errno.ENOSYS: "this kernel was built without BPF (CONFIG_BPF_SYSCALL)",
}


def system_error(what: str, code: int, hints: Mapping[int, str] = HINTS) -> HostError:
    """One line for the operator: what failed, the kernel's word for it, and what to do.

    Args:
        code: errno, positive.
        hints: what an errno means here; others extend HINTS with their own words.
    """
    hint = hints.get(code)
    said = ffi.string(lib.xg_last_message()).decode(errors="replace").strip().splitlines()
    detail = hint or (said[-1] if said else "")
    return HostError(f"{what}: {os.strerror(code)}" + (f" ({detail})" if detail else ""))


def checked(what: str, rc: int, hints: Mapping[int, str] = HINTS) -> int:
    """Returns rc, or raises HostError if it is negative: libbpf's -errno."""
    if rc < 0:
        raise system_error(what, -rc if rc != -1 else ffi.errno, hints)
    return rc


class AdoptionError(Exception):
    """What an earlier agent left pinned cannot be gone on with; the text says why."""


class MapShape(NamedTuple):
    """What the kernel knows of a map: two of one shape may stand for each other."""

    kind: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int


class BpfMap:
    """One map of a loaded object, or a pinned one."""

    def __init__(
        self, name: str, fd: int, max_entries: int, value_size: int, key_size: int = 4
    ) -> None:
        self.name = name
        self.fd = fd
        self.max_entries = max_entries
        self.value_size = value_size
        self.key_size = key_size

    @classmethod
    def pinned(cls, pin: Path) -> BpfMap:
        """A map of an earlier process; its descriptor is the caller's to close.

        Raises:
            AdoptionError: there is none, or the pin is no map's.
        """
        fd = lib.bpf_obj_get(os.fsencode(pin))
        if fd < 0:
            raise AdoptionError(f"no pin of the map {pin.name}: {os.strerror(ffi.errno)}")
        shape = map_shape(fd)
        return cls(pin.name, fd, shape.max_entries, shape.value_size, shape.key_size)

    def pin(self, path: Path) -> None:
        """Makes the map outlive this process, in place of what is pinned there."""
        path.unlink(missing_ok=True)
        lib.xg_clear_message()
        checked(f"pin {path}", lib.bpf_obj_pin(self.fd, os.fsencode(path)))

    def each_key(self) -> Iterator[bytes]:
        """All keys of a hash map; those that come or go meanwhile may be missed."""
        key = ffi.NULL
        following = ffi.new("char[]", self.key_size)
        for _ in range(self.max_entries):
            if lib.bpf_map_get_next_key(self.fd, key, following) < 0:
                return
            found = bytes(ffi.buffer(following))
            yield found
            key = ffi.from_buffer(found)

    def update(self, key: bytes, value: bytes) -> None:
        """Sets the value of a key; HostError if the map is full or gone."""
        rc = lib.bpf_map_update_elem(self.fd, ffi.from_buffer(key), ffi.from_buffer(value), 0)
        checked(f"map {self.name}", rc)

    def delete(self, key: bytes) -> bool:
        """Removes a key; False if it was not there."""
        rc: int = lib.bpf_map_delete_elem(self.fd, ffi.from_buffer(key))
        if rc < 0 and -rc != errno.ENOENT:
            raise system_error(f"map {self.name}", -rc)
        return rc == 0

    def lookup(self, key: bytes, value_len: int | None = None) -> bytes | None:
        """The value of a key, or None. `value_len`: bytes, for per-CPU maps all CPUs' together."""
        value = ffi.new("char[]", value_len or self.value_size)
        rc: int = lib.bpf_map_lookup_elem(self.fd, ffi.from_buffer(key), value)
        if rc == -errno.ENOENT:
            return None
        checked(f"map {self.name}", rc)
        return bytes(ffi.buffer(value))

    def memory(self) -> mmap.mmap:
        """The values of an array made with BPF_F_MMAPABLE, writable."""
        stride = (self.value_size + 7) & ~7
        length = -(-stride * self.max_entries // mmap.PAGESIZE) * mmap.PAGESIZE
        try:
            return mmap.mmap(self.fd, length, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        except OSError as error:
            raise system_error(f"map {self.name}", error.errno or errno.EINVAL) from None


def map_shape(fd: int) -> MapShape:
    """The shape of the map behind a descriptor; of something else, one that no map has."""
    shape = ffi.new("uint32_t[5]")
    checked("a pinned map", lib.xg_map_shape(fd, shape))
    return MapShape(*shape)


@dataclass(frozen=True, slots=True)
class ProgramRun:
    """What BPF_PROG_TEST_RUN gave: the action's name, the frame afterwards, ns a run."""

    action: str
    frame: bytes
    duration_ns: int


def run_program(program_fd: int, frame: bytes, *, ifindex: int = 0, repeat: int = 1) -> ProgramRun:
    """Runs an XDP program on one frame in the calling thread's network namespace.

    Args:
        program_fd: of a loaded XDP program.
        frame: from the Ethernet header on, at least 14 bytes.
        ifindex: the interface that it seems to come from; 0: the loopback.
        repeat: runs; the frame is not restored between them.

    Raises:
        HostError: the kernel refused.

    Source: Documentation/bpf/bpf_prog_run.rst of the kernel.
    """
    room = ffi.new("char[]", TEST_RUN_ROOM)
    length = ffi.new("uint32_t *", TEST_RUN_ROOM)
    action = ffi.new("uint32_t *")
    duration = ffi.new("uint32_t *")
    rc = lib.xg_test_run(
        program_fd, ffi.from_buffer(frame), len(frame), room, length, ifindex, repeat,
        action, duration,
    )  # fmt: skip
    checked("BPF_PROG_TEST_RUN", rc)
    code = action[0]
    name = XDP_ACTIONS[code] if code < len(XDP_ACTIONS) else str(code)
    return ProgramRun(name, bytes(ffi.buffer(room, length[0])), duration[0])


class BpfObject:
    """A BPF object file, loaded: its maps and programs.

    Args:
        name: of the file in the package, without `.bpf.o`.
        max_entries: map name to number of entries, where the loader decides.
        shared: maps of another object that take the place of those of the same name.
        adopted: pinned maps that do, if they have the shape that the programs are made for.

    Raises:
        HostError: the file is missing, or the kernel refuses it.
        AdoptionError: one of `adopted` has another shape, or is no map of the object.
    """

    def __init__(
        self,
        name: str,
        *,
        max_entries: Mapping[str, int] | None = None,
        shared: Mapping[str, BpfMap] | None = None,
        adopted: Mapping[str, BpfMap] | None = None,
    ) -> None:
        lib.xg_capture_messages()
        lib.xg_clear_message()
        path = OBJECT_DIR / f"{name}.bpf.o"
        if not path.exists():
            raise HostError(f"{path.name} is not built: run `make setup`")
        self.name = name
        self._object = lib.xg_open_object(os.fsencode(path))
        if self._object == ffi.NULL:
            raise system_error(f"open {path.name}", ffi.errno)
        try:
            self._size_maps(max_entries or {})
            self._put_in_place(shared or {})
            self._compare_shapes(adopted or {})
            self._put_in_place(adopted or {})
            checked(f"load {path.name}", lib.bpf_object__load(self._object))
        except (HostError, AdoptionError):
            self.close()
            raise
        self.maps = {bpf_map.name: bpf_map for bpf_map in self._maps()}

    def _handles(self) -> dict[str, Any]:
        handles = {}
        handle = lib.bpf_object__next_map(self._object, ffi.NULL)
        while handle != ffi.NULL:
            handles[ffi.string(lib.bpf_map__name(handle)).decode()] = handle
            handle = lib.bpf_object__next_map(self._object, handle)
        return handles

    def _size_maps(self, max_entries: Mapping[str, int]) -> None:
        for name, handle in self._handles().items():
            if name in max_entries:
                rc = lib.bpf_map__set_max_entries(handle, max_entries[name])
                checked(f"map {name}", rc)

    def _put_in_place(self, maps: Mapping[str, BpfMap]) -> None:
        for name, handle in self._handles().items():
            if name in maps:
                checked(f"map {name}", lib.bpf_map__reuse_fd(handle, maps[name].fd))

    def _compare_shapes(self, maps: Mapping[str, BpfMap]) -> None:
        handles = self._handles()
        for name, adopted in maps.items():
            if name not in handles:
                raise AdoptionError(f"the programs have no map {name}")
            handle = handles[name]
            wanted = MapShape(
                lib.bpf_map__type(handle),
                lib.bpf_map__key_size(handle),
                lib.bpf_map__value_size(handle),
                lib.bpf_map__max_entries(handle),
                lib.bpf_map__map_flags(handle),
            )
            if map_shape(adopted.fd) != wanted:
                raise AdoptionError(f"the pinned map {name} has another shape")

    def _maps(self) -> list[BpfMap]:
        return [
            BpfMap(
                name,
                lib.bpf_map__fd(handle),
                lib.bpf_map__max_entries(handle),
                lib.bpf_map__value_size(handle),
                lib.bpf_map__key_size(handle),
            )
            for name, handle in self._handles().items()
        ]

    def program_fd(self, name: str) -> int:
        """The descriptor of a program; it stays the object's."""
        program = lib.bpf_object__find_program_by_name(self._object, name.encode())
        if program == ffi.NULL:
            raise HostError(f"{self.name}.bpf.o has no program {name}: run `make setup` again")
        return int(lib.bpf_program__fd(program))

    def close(self) -> None:
        """Frees programs and maps; what is attached or pinned lives on. Repeatable."""
        if self._object != ffi.NULL:
            lib.bpf_object__close(self._object)
            self._object = ffi.NULL


class PinnedLink:
    """A program attached by a link that a pin keeps alive after its process.

    The pin makes a crashed agent's programs go on; a new agent finds the pin and puts its own
    program in the old one's place, without a packet between the two.
    """

    def __init__(self, pin: Path | None, fd: int) -> None:
        self.pin = pin
        self.fd = fd

    @classmethod
    def find(cls, pin: Path) -> PinnedLink | None:
        """The link of an earlier process, or None."""
        fd = lib.bpf_obj_get(os.fsencode(pin))
        return cls(pin, fd) if fd >= 0 else None

    @classmethod
    def create(
        cls, pin: Path | None, program_fd: int, target: int, attach_type: int, flags: int,
        what: str, hints: Mapping[int, str] = HINTS,
    ) -> PinnedLink:  # fmt: skip
        """Attaches a program and pins the link.

        Args:
            pin: a path in a BPF file system whose folder exists; None: the program goes with the
                process.
            target: an interface's index, or a cgroup's descriptor.
            attach_type: BPF_XDP or BPF_CGROUP_SOCK_OPS.
            flags: XDP_FLAGS_*; 0 for a cgroup.
            what: how an error names it.
            hints: what an errno means here.
        """
        lib.xg_clear_message()
        fd = checked(what, lib.xg_link_create(program_fd, target, attach_type, flags), hints)
        link = cls(pin, fd)
        if pin is None:
            return link
        pin.unlink(missing_ok=True)
        try:
            checked(f"pin {pin}", lib.bpf_obj_pin(fd, os.fsencode(pin)))
        except HostError:
            link.close()
            raise
        return link

    def replace(self, program_fd: int) -> bool:
        """Puts another program in the place of the present one, atomically. False: the link is
        dead (its device or cgroup is gone)."""
        rc: int = lib.xg_link_update(self.fd, program_fd)
        if rc == 0:
            return True
        if -rc in (errno.ENOLINK, errno.ENODEV, errno.EINVAL):
            return False
        raise system_error(f"replace the program of {self.pin}", -rc)

    @property
    def ifindex(self) -> int:
        """The interface of an XDP link; 0: it is gone."""
        index = ffi.new("uint32_t *")
        checked(f"link {self.pin}", lib.xg_link_ifindex(self.fd, index))
        return int(index[0])

    def detach(self) -> None:
        """Detaches the program; the pin is another link's by now."""
        lib.bpf_link_detach(self.fd)
        self.close()

    def remove(self) -> None:
        """Detaches the program and removes the pin."""
        if self.pin:
            self.pin.unlink(missing_ok=True)
        self.detach()

    def close(self) -> None:
        """Closes the descriptor; the pin keeps the program attached."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def attach_xdp(
    pin: Path | None, program_fd: int, ifindex: int, mode: str, hints: Mapping[int, str] = HINTS
) -> tuple[PinnedLink, str]:
    """Attaches an XDP program in the best mode that is allowed.

    Args:
        pin: keeps it attached after this process; None: it goes with it.
        mode: "native", "skb", or "auto": native, and skb if the driver has no native mode.

    Returns:
        The link and the mode that was picked.
    """
    flags = {"native": lib.XDP_FLAGS_DRV_MODE, "skb": lib.XDP_FLAGS_SKB_MODE}
    wanted = ("native", "skb") if mode == "auto" else (mode,)
    for attempt in wanted:
        try:
            what = f"attach XDP ({attempt})"
            link = PinnedLink.create(
                pin, program_fd, ifindex, lib.BPF_XDP, flags[attempt], what, hints
            )
        except HostError as error:
            if OTHER_PROGRAM in str(error):
                raise HostError(f"{error}; there now: {attached_names(ifindex)}") from None
            if attempt == wanted[-1] or os.strerror(errno.EOPNOTSUPP) not in str(error):
                raise
        else:
            return link, attempt
    raise AssertionError("the loop returns or raises")


def attached_names(ifindex: int) -> str:
    """The names of the XDP programs on an interface, by libxdp; "unknown" if it cannot tell."""
    names = ffi.new("char[]", 256)
    lib.xg_attached_names(ifindex, names, len(names))
    return ffi.string(names).decode(errors="replace") or "unknown"


def attached_mode(ifindex: int) -> str | None:
    """How a program is attached to the interface: "native", "skb", or None."""
    program_id = ffi.new("uint32_t *")
    mode = ffi.new("uint8_t *")
    checked("query XDP", lib.xg_xdp_attached(ifindex, program_id, mode))
    return {1: "native", 2: "skb"}.get(mode[0])


def attach_sockops(pin: Path, program_fd: int, cgroup: Path) -> PinnedLink:
    """Attaches a sockops program to a cgroup v2."""
    try:
        fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise HostError(f"cgroup {cgroup}: {error.strerror}; set [dataplane] cgroup") from None
    try:
        what = f"attach sockops to {cgroup}"
        return PinnedLink.create(pin, program_fd, fd, lib.BPF_CGROUP_SOCK_OPS, 0, what)
    finally:
        os.close(fd)


def possible_cpus() -> int:
    """How many values a per-CPU map gives for one key."""
    return checked("number of CPUs", lib.libbpf_num_possible_cpus())
