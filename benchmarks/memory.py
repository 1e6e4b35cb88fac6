"""How much memory a job takes at its peak, by Linux's word; run it in a process of its own."""

import ctypes
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch


def peak(run: Callable[[], object], times: int = 1) -> float:
    """MiB above what the process holds before `run`, at the highest point of so many calls."""
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    for _ in range(times):
        run()
    return resident("VmHWM") - before


def above_rest(run: Callable[[], object], device: str, times: int = 1) -> float:
    """`peak` after what is free was given back; on a GPU by torch's word, of one call."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return peak(run, times)


def in_child(script: str, *words: str) -> float:
    """The number that a script prints last when it is run with these words; ends where it fails."""
    ran = subprocess.run([sys.executable, script, *words], capture_output=True, text=True)
    if ran.returncode:
        sys.exit(ran.stderr)
    return float(ran.stdout.split()[-1])


def resident(word: str) -> float:
    """MiB of this process in memory: now (VmRSS) or at the peak (VmHWM)."""
    found = re.search(rf"{word}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024
