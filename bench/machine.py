"""What a benchmark ran on, so that a figure is never quoted without it."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def machine() -> str:
    """The machine, as far as it says of itself."""
    model = next((line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "?")
    return (
        f"{os.cpu_count()} cores of {model}, Linux {platform.release()}, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}"
    )
