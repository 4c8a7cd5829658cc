# SPDX-License-Identifier: BSD-2-Clause
"""Writes the content and the configuration of the real proxies on the hosts of a box."""

import hashlib
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pyxdp_gossip.popbox import names

ProxyKind = Literal["nginx", "haproxy", "none"]

SMALL_BYTES = 200
LONG_BYTES = 640 * 1024
LONG_RATE_BYTES_S = 160 * 1024
"""A long download takes four seconds: several ECMP changes."""
CONNECTIONS_MAX = 8192
"""Per host; more than any box has clients for."""


@dataclass(frozen=True, slots=True)
class Content:
    """What every host serves: paths, sizes and digests, the same on each."""

    small_sha256: str
    long_sha256: str
    small_bytes: int = SMALL_BYTES
    long_bytes: int = LONG_BYTES


def write_content(folder: Path, seed: int) -> Content:
    """Writes the files `small` and `long`; their bytes depend on the seed alone."""
    folder.mkdir()
    source = random.Random(seed)
    small, long = source.randbytes(SMALL_BYTES), source.randbytes(LONG_BYTES)
    (folder / "small").write_bytes(small)
    (folder / "long").write_bytes(long)
    return Content(hashlib.sha256(small).hexdigest(), hashlib.sha256(long).hexdigest())


def _vip_endpoints() -> tuple[str, str]:
    return f"{names.VIP4}:{names.VIP_PORT}", f"[{names.VIP6}]:{names.VIP_PORT}"


def nginx_config(folder: Path, content: Path, host: int, behind_haproxy: bool) -> str:
    """A configuration that touches nothing outside `folder`, for one worker."""
    endpoints = [f"127.0.0.1:{names.BACKEND_PORT}"] if behind_haproxy else [*_vip_endpoints()]
    listens = "\n".join(f"    listen {endpoint} backlog=1024;" for endpoint in endpoints)
    temporary = "\n".join(
        f"  {kind}_temp_path {folder}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""user root;
worker_processes 1;
worker_rlimit_nofile {2 * CONNECTIONS_MAX};
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log warn;
events {{ worker_connections {CONNECTIONS_MAX}; }}
http {{
  access_log off;
{temporary}
  sendfile on;
  keepalive_timeout 300s;
  keepalive_requests 1000000000;
  send_timeout 300s;
  add_header X-Host {host} always;
  server {{
{listens}
    root {content};
    location = /long {{ limit_rate {LONG_RATE_BYTES_S}; }}
  }}
}}
"""


def haproxy_config() -> str:
    binds = "\n".join(f"  bind {endpoint}" for endpoint in _vip_endpoints())
    return f"""global
  maxconn {CONNECTIONS_MAX}
  nbthread 1
defaults
  mode http
  timeout connect 5s
  timeout client 300s
  timeout server 300s
  timeout http-keep-alive 300s
frontend vip
{binds}
  default_backend local
backend local
  server nginx 127.0.0.1:{names.BACKEND_PORT}
"""


def proxy_commands(
    kind: ProxyKind, folder: Path, content: Path, host: int
) -> list[tuple[str, list[str], int]]:
    """Writes the configuration files of one host.

    Returns:
        (name, command line, the port it will listen on), in the order of starting.
    """
    if kind == "none":
        return []
    nginx = folder / "nginx.conf"
    nginx.write_text(nginx_config(folder, content, host, kind == "haproxy"))
    argv = ["nginx", "-p", str(folder), "-c", str(nginx), "-e", f"{folder}/nginx-error.log"]
    port = names.BACKEND_PORT if kind == "haproxy" else names.VIP_PORT
    commands = [("nginx", argv, port)]
    if kind == "haproxy":
        haproxy = folder / "haproxy.cfg"
        haproxy.write_text(haproxy_config())
        commands.append(("haproxy", ["haproxy", "-db", "-f", str(haproxy)], names.VIP_PORT))
    return commands
