"""How long a run took, over all the sessions that it was interrupted and resumed in."""

import json
from pathlib import Path
from time import monotonic
from typing import Any

from transformers import TrainerCallback

from .run_folder import write_text


class Stopwatch(TrainerCallback):
    """Counts a run's seconds and keeps them in a file, at every log line and checkpoint, so that a resumed run goes on.

    What a session did after its last log line is not counted: nothing is written when a process is killed.

    Args:
        file: where the seconds of earlier sessions are kept.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._before: float = json.loads(file.read_text(encoding="utf-8"))["seconds"] if file.exists() else 0.0
        self._started = monotonic()

    @property
    def seconds(self) -> float:
        """Seconds of this session and of those before it."""
        return self._before + monotonic() - self._started

    def keep(self) -> None:
        """Write the seconds down."""
        write_text(self.file, json.dumps({"seconds": round(self.seconds, 1)}) + "\n")

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write at every log line."""
        if state.is_world_process_zero:
            self.keep()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write with every checkpoint."""
        if state.is_world_process_zero:
            self.keep()
