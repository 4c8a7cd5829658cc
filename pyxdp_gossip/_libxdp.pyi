# SPDX-License-Identifier: BSD-2-Clause
"""The cffi module that _libxdp_build.py declares; its members are libbpf's and libxdp's."""

from typing import Any

ffi: Any
lib: Any
