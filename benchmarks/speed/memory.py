"""The peak memory of a step, on Linux."""

import ctypes
import re
from collections.abc import Callable
from pathlib import Path

MMAP_THRESHOLD = -3  # of glibc's mallopt


def peak_megabytes(step: Callable[[], object]) -> int:
    """Return how much memory a step takes at its peak beyond what is held before.

    Every larger tensor gets pages of its own, which go back when it is freed: else what malloc keeps would be counted.
    """
    libc = ctypes.CDLL(None)
    libc.mallopt(MMAP_THRESHOLD, 2**16)
    step()  # what stays for good, as gradients, is there before
    libc.malloc_trim(0)  # what was freed before the threshold stood goes back, too
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _kilobytes("VmRSS")
    step()
    return (_kilobytes("VmHWM") - before) // 1024


def _kilobytes(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise RuntimeError(f"/proc/self/status does not say {name}. Measure memory on Linux.")
    return int(found.group(1))
