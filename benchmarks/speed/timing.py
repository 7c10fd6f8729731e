"""Fair timings on a shared machine: every way in turn, many times, medians and their ratios."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
"""What is measured: the time that passes, or the CPU time of this process, where others leave it little of a core."""

chosen = {"clock": "wall"}
"""Set once, by the command line."""


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: the median and the quartiles of all calls."""

    median: float
    low: float
    high: float


def interleaved(ways: Mapping[str, Callable[[], object]], repeats: int, calls_before: int = 0) -> dict[str, Timing]:
    """Time every way once a round, so that what else the machine does falls on all alike; the first round warms up.

    Args:
        ways: name -> what is timed.
        repeats: rounds that count.
        calls_before: the one that is timed, in the same turn (default 0): with none its inputs are in no cache.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    clock = CLOCKS[chosen["clock"]]
    for count in range(repeats + 1):
        for name, way in ways.items():
            for _ in range(calls_before):
                way()
            start = clock()
            way()
            if count:
                seconds[name].append(clock() - start)
    found = {}
    for name, values in seconds.items():
        low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else (values[0],) * 3
        found[name] = Timing(statistics.median(values), low, high)
    return found


def timing_table(timings: Mapping[str, Timing], reference: str, notes: Mapping[str, str] | None = None) -> str:
    """Return a Markdown table: milliseconds, quartiles, how many times as fast as the reference, and a note.

    Args:
        timings: name -> what `interleaved` found.
        reference: the name that the others are compared with.
        notes: what else a row says, such as how far its result is from the reference's.
    """
    notes = notes or {}
    lines = ["| | ms, median | quartiles | times as fast | |", "|---|---:|---:|---:|---|"]
    for name, found in timings.items():
        ratio = timings[reference].median / found.median
        lines.append(
            f"| {name} | {1e3 * found.median:.2f} | {1e3 * found.low:.2f} - {1e3 * found.high:.2f} | {ratio:.2f} "
            f"| {notes.get(name, '')} |"
        )
    return "\n".join(lines)
