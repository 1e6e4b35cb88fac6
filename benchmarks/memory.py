"""How much memory a job takes at its peak, by Linux's word; run it in a process of its own."""

import re
from collections.abc import Callable
from pathlib import Path


def peak(run: Callable[[], object], times: int = 1) -> float:
    """MiB above what the process holds before `run`, at the highest point of so many calls."""
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    for _ in range(times):
        run()
    return resident("VmHWM") - before


def resident(word: str) -> float:
    """MiB of this process in memory: now (VmRSS) or at the peak (VmHWM)."""
    found = re.search(rf"{word}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024
