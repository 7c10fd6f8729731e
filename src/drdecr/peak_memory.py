"""The most memory that a stage holds, told where its seconds are told. To measure it never stops a run."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar
from weakref import WeakSet

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
SLACK = 2**24
"""Bytes by which Linux's counts of one moment may differ: threads hold some back."""

WORDS = {
    "peak_memory_mb": "peak memory",
    "peak_process_memory_mb": "peak memory of the process so far",
    "peak_gpu_memory_mb": "peak memory on the GPU",
}
"""What there is to tell, and how it is said."""


class PeakMemory:
    """The peaks of this process's memory from now on.

    Another may be made in between, as that of a stage within a pipeline: what it makes the system forget, this one keeps.
    """

    _counting: ClassVar["WeakSet[PeakMemory]"] = WeakSet()

    def __init__(self) -> None:
        for other in list(self._counting):
            other._kept = other.peaks
        self._kept: dict[str, float] = {}
        self._is_own = forget_resident_peak()
        forget_gpu_peak()
        self._counting.add(self)

    @property
    def peaks(self) -> dict[str, float]:
        """Megabytes (of 10^6 bytes) by the names in `WORDS`; what the system does not tell is left out.

        `peak_memory_mb` is resident memory, with what the process held before; `peak_process_memory_mb` stands in its place
        where the system does not forget earlier peaks (anywhere but on Linux). `peak_gpu_memory_mb` is of torch's tensors on
        the current CUDA device.
        """
        resident = "peak_memory_mb" if self._is_own else "peak_process_memory_mb"
        found = {resident: resident_peak(), "peak_gpu_memory_mb": gpu_peak()}
        return larger(self._kept, {name: round(value / 1e6, 1) for name, value in found.items() if value})


def larger(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    """Return the larger of two peaks by each name, in the order of `WORDS`.

    >>> larger({"peak_memory_mb": 3.0}, {"peak_memory_mb": 2.0, "peak_gpu_memory_mb": 1.0, "seconds": 9.0})
    {'peak_memory_mb': 3.0, 'peak_gpu_memory_mb': 1.0}
    """
    return {
        name: max(peaks[name] for peaks in (one, other) if name in peaks)
        for name in WORDS
        if name in one or name in other
    }


def in_words(peaks: Mapping[str, float]) -> str:
    """Return peaks for a summary line, empty where there are none; other facts may stand among them.

    >>> in_words({"seconds": 3.0, "peak_memory_mb": 1234.5, "peak_gpu_memory_mb": 200.0})
    'peak memory 1,234 MB, peak memory on the GPU 200 MB'
    """
    return ", ".join(f"{words} {peaks[name]:,.0f} MB" for name, words in WORDS.items() if name in peaks)


def resident_peak() -> int | None:
    """Return the most bytes that this process had resident since they were last forgotten; None where nobody says."""
    if peak := _status().get("VmHWM"):
        return peak
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def forget_resident_peak() -> bool:
    """Begin to count anew from what is resident now, and return whether that worked."""
    try:
        CLEAR.write_text("5", encoding="ascii")
    except OSError:
        return False
    now = _status()  # looked at, since a system may take the 5 and do nothing
    return 0 < now.get("VmHWM", 0) <= now.get("VmRSS", 0) + SLACK


def _status() -> dict[str, int]:
    """Return the bytes in Linux's status of this process, by name; nothing elsewhere."""
    try:
        lines = [line.split() for line in STATUS.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError):
        return {}
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if words[2:] == ["kB"] and words[1].isdigit()}


def gpu_peak() -> int | None:
    """Return the most bytes that tensors had on the current CUDA device since they were last forgotten."""
    if not torch.cuda.is_initialized():  # asking would set CUDA up
        return None
    try:
        return torch.cuda.max_memory_allocated()
    except RuntimeError:  # a device that failed says so in the run itself
        return None


def forget_gpu_peak() -> None:
    """Begin to count anew from what is allocated now."""
    if torch.cuda.is_initialized():
        try:
            torch.cuda.reset_peak_memory_stats()
        except RuntimeError:
            return
