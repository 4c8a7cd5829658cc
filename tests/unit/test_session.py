# SPDX-License-Identifier: BSD-2-Clause
"""Sessions and services: reading, writing, refusing."""

from ipaddress import ip_address

import pytest

from pyxdp_gossip.session import Service, Session, packed16, parse_endpoint, unpacked16


def test_a_session_is_read_from_two_endpoints() -> None:
    session = Session.tcp("203.0.113.9:51000", "198.51.100.1:443")
    assert session.client == ip_address("203.0.113.9")
    assert (session.client_port, session.port, session.protocol) == (51000, 443, "tcp")
    assert session.service == Service(ip_address("198.51.100.1"), 443, "tcp")
    assert session.family == 4
    assert str(session) == "tcp 203.0.113.9:51000 -> 198.51.100.1:443"


def test_ipv6_endpoints_have_brackets() -> None:
    session = Session.udp("[2001:db8::9]:51000", "[2001:db8::1]:443")
    assert (session.family, session.protocol) == (6, "udp")
    assert str(session) == "udp [2001:db8::9]:51000 -> [2001:db8::1]:443"


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", "1.2.3.4", "1.2.3.4:", "1.2.3.4:0", "1.2.3.4:65536", "1.2.3.4:-1"),
        *("[1.2.3.4]:1", "2001:db8::1:443", "[2001:db8::1]", "host:443", "1.2.3.4:99999999"),
        *("1.2.3.4:4²", "1.2.3.4:+1"),
    ],
)
def test_what_is_no_endpoint_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|must be") as caught:
        parse_endpoint(text)
    assert "\n" not in str(caught.value)


def test_a_session_of_two_families_is_refused() -> None:
    with pytest.raises(ValueError, match="different families"):
        Session.tcp("203.0.113.9:51000", "[2001:db8::1]:443")


@pytest.mark.parametrize("text", ["203.0.113.9", "2001:db8::9", "::", "::1"])
def test_sixteen_bytes_keep_an_address(text: str) -> None:
    address = ip_address(text)
    assert unpacked16(packed16(address)) == address
