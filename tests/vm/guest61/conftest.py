# SPDX-License-Identifier: BSD-2-Clause
"""In the guest with Linux 6.1: the fixtures of the other one."""

from __future__ import annotations

from tests.vm.guest.conftest import host_link, no_kernel_errors

__all__ = ["host_link", "no_kernel_errors"]
