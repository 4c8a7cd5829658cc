# SPDX-License-Identifier: BSD-2-Clause
"""`python -m tests.vm`: all that the guest needs is there afterwards, or one line says why not."""

from __future__ import annotations

import os
import sys

from tests.vm import image, packages
from tests.vm.packages import CannotRunError


def main() -> str | None:
    """The line for a machine that cannot run the guest."""
    if os.environ.get("ZEROCOPY") == "off":
        print("ZEROCOPY=off: the guest with zero-copy is left out")
        return None
    try:
        guests = [packages.parts(suite) for suite in packages.SUITES]
        for parts in guests:
            image.build(parts)
    except CannotRunError as error:
        return f"the guest with zero-copy cannot run here: {error} (ZEROCOPY=off leaves it out)"
    for parts in guests:
        print(f"guest: {parts}")
    return None


if __name__ == "__main__":
    sys.exit(main())
