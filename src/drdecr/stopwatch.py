"""How long a run took and what it held in memory, over all the sessions that it was interrupted and resumed in."""

import json
from pathlib import Path
from time import monotonic
from typing import Any

from transformers import TrainerCallback

from .peak_memory import PeakMemory, larger
from .run_folder import write_text


class Stopwatch(TrainerCallback):
    """Counts a run's seconds and its peak of memory and keeps them in a file, at every log line and checkpoint.

    So a resumed run goes on with both.

    What a session did after its last log line is not counted: nothing is written when a process is killed.

    Args:
        file: where those of earlier sessions are kept.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        before: dict[str, float] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"seconds": 0.0}
        self._before, self._peaks_before = before["seconds"], larger(before, {})
        self._memory = PeakMemory()
        self._started = monotonic()

    @property
    def seconds(self) -> float:
        """Seconds of this session and of those before it."""
        return self._before + monotonic() - self._started

    @property
    def peaks(self) -> dict[str, float]:
        """The highest peaks of memory of this session and of those before it, as of `PeakMemory`."""
        return larger(self._peaks_before, self._memory.peaks)

    def keep(self) -> None:
        """Write both down."""
        write_text(self.file, json.dumps({"seconds": round(self.seconds, 1), **self.peaks}) + "\n")

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write at every log line."""
        if state.is_world_process_zero:
            self.keep()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write with every checkpoint."""
        if state.is_world_process_zero:
            self.keep()
