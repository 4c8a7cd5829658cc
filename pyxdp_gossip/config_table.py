# SPDX-License-Identifier: BSD-2-Clause
"""Reads one TOML table: each key once, each wrong value one line that says what is allowed."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from typing import Any, Literal

from pyxdp_gossip.errors import ConfigError
from pyxdp_gossip.session import Address, parse_endpoint

INTERFACE_NAME = re.compile(r"[^\s/:]{1,15}")  # IFNAMSIZ - 1; dev_valid_name() in the kernel
MAC = re.compile(r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}")
MEMBERS_MAX = 256  # unicast gossip sends each datagram so many times


class TableReader:
    """One table, whose keys are all known.

    Args:
        label: how errors name the source.
        name: the table; "" is the file itself.
        data: what `tomllib` gave.
        known: the keys of every table, by its name.

    Raises:
        ConfigError: a key is unknown; names it, its table and the nearest known key. This comes
            before any complaint about a missing key, which a misspelt one would cause.
    """

    def __init__(
        self, label: str, name: str, data: Mapping[str, Any], known: Mapping[str, tuple[str, ...]]
    ) -> None:
        self._label = label
        self._name = name
        self._data = data
        self._known = known
        for key in data:
            if key not in known[name]:
                raise self._unknown(key)

    def _unknown(self, key: str) -> ConfigError:
        near = difflib.get_close_matches(key, self._known[self._name], n=1, cutoff=0)[0]
        table = f"[{self._name}]" if self._name else "the file"
        return ConfigError(
            f"{self._label}: unknown key `{key}` in {table}; the nearest known one is `{near}`"
        )

    def error(self, key: str, value: object, allowed: str) -> ConfigError:
        """One line: source, table, key, value, what is allowed. A value of None is missing."""
        where = f"{self._label}: [{self._name}] {key}"
        found = "is missing" if value is None else f"is {value!r}"
        return ConfigError(f"{where} {found}, expected {allowed}")

    def has(self, key: str) -> bool:
        """Whether the operator wrote the key."""
        return key in self._data

    def table(self, key: str, *, optional: bool = False) -> TableReader:
        """A table of this table; an absent optional one is empty."""
        value = self._data.get(key)
        if value is None and not optional:
            raise ConfigError(f"{self._label}: the table [{key}] is missing; add it")
        if value is not None and not isinstance(value, Mapping):
            raise ConfigError(f"{self._label}: `{key}` is {value!r}, expected a table [{key}]")
        return TableReader(self._label, key, value or {}, self._known)

    def tables(self, key: str, most: int) -> list[TableReader]:
        """The tables [[key]], none if absent, at most `most`."""
        value = self._data.get(key)
        rows = [] if value is None else value
        if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
            raise ConfigError(f"{self._label}: `{key}` is {value!r}, expected tables [[{key}]]")
        if len(rows) > most:
            raise ConfigError(
                f"{self._label}: {len(rows)} tables [[{key}]], at most {most} are allowed"
            )
        return [TableReader(self._label, key, row, self._known) for row in rows]

    def integer(self, key: str, low: int, high: int, default: int | None = None) -> int:
        """A number of low..high; must be there if there is no default."""
        value = self._data.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.error(key, value, f"a whole number of {low}..{high}")
        return value

    def integers(self, key: str, low: int, high: int, most: int) -> tuple[int, ...]:
        """A list of 1 to `most` numbers of low..high; empty if absent."""
        value = self._data.get(key)
        if value is None:
            return ()
        if (
            not isinstance(value, list)
            or not 1 <= len(value) <= most
            or any(
                not isinstance(one, int) or isinstance(one, bool) or not low <= one <= high
                for one in value
            )
        ):
            raise self.error(key, value, f"a list of 1 to {most} whole numbers of {low}..{high}")
        return tuple(value)

    def integer_or_auto(self, key: str, low: int, high: int) -> int | Literal["auto"] | None:
        """A number of low..high, or "auto"; None if absent."""
        value = self._data.get(key)
        if value is None or value == "auto":
            return None if value is None else "auto"
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.error(key, value, f'a whole number of {low}..{high}, or "auto"')
        return value

    def boolean(self, key: str, default: bool) -> bool:
        """true or false."""
        value = self._data.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(key, value, "true or false")
        return value

    def choice(self, key: str, allowed: Iterable[str], default: str | None = None) -> str:
        """One of a few words; must be there if there is no default."""
        words = tuple(allowed)
        value = self._data.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, str) or value not in words:
            raise self.error(key, value, " or ".join(f'"{word}"' for word in words))
        return value

    def text(self, key: str, *, optional: bool = False) -> str | None:
        """A string that is not empty and holds no NUL."""
        value = self._data.get(key)
        if value is None and optional:
            return None
        if not isinstance(value, str) or not value or "\0" in value:
            raise self.error(key, value, "a text")
        return value

    def texts(self, key: str, allowed: str) -> list[str]:
        """A list of strings; none if the key is absent."""
        value = self._data.get(key, [])
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise self.error(key, value, allowed)
        return value

    def interface(self, key: str) -> str:
        """A name that the kernel takes for a network device."""
        value = self._data.get(key)
        valid = isinstance(value, str) and INTERFACE_NAME.fullmatch(value)
        if not valid or value in (".", ".."):
            raise self.error(key, value, 'a network device, like "eth0"')
        return str(value)

    def address(self, key: str, *, optional: bool = False) -> Address | None:
        """An IP address, no name and no prefix length."""
        value = self._data.get(key)
        if value is None and optional:
            return None
        return self._address(key, value)

    def addresses(self, key: str) -> tuple[Address, ...]:
        """A list of IP addresses, each once, empty if absent."""
        value = self._data.get(key)
        rows = [] if value is None else value
        if not isinstance(rows, list) or len(rows) > MEMBERS_MAX:
            raise self.error(key, value, f"a list of at most {MEMBERS_MAX} IP addresses")
        addresses = tuple(self._address(key, row) for row in rows)
        for place, address in enumerate(addresses):
            if address in addresses[:place]:
                raise self.error(key, str(address), "each address once; remove one of the two")
        return addresses

    def _address(self, key: str, value: object) -> Address:
        try:
            # An int would be taken as the address's number.
            address = ip_address(value) if isinstance(value, str) else None
        except ValueError:
            address = None
        if address is None or "%" in str(value):
            raise self.error(key, value, "an IPv4 or IPv6 address")
        return address

    def endpoint(self, key: str, *, optional: bool = False) -> tuple[Address, int] | None:
        """`ADDRESS:PORT`, an IPv6 address in brackets."""
        value = self._data.get(key)
        if value is None and optional:
            return None
        try:
            return parse_endpoint(value if isinstance(value, str) else "")
        except ValueError:
            what = "ADDRESS:PORT, an IPv6 address in [brackets], port 1..65535"
            raise self.error(key, value, what) from None

    def mac(self, key: str) -> bytes | None:
        """Six bytes, colons between; None if absent."""
        value = self._data.get(key)
        if value is None:
            return None
        if not isinstance(value, str) or not MAC.fullmatch(value):
            raise self.error(key, value, "a MAC address like 02:00:00:00:00:01")
        return bytes.fromhex(value.replace(":", ""))
