"""What a step of the data path keeps beside its output until it is done, so that a killed call goes on."""

import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from filelock import FileLock, Timeout

from .cards import is_step_done
from .files import read_json, value_digest, write_json
from .provenance import PeakMemory, in_words
from .row_parts import RowParts

logger = logging.getLogger(__name__)

PLAN = "plan.json"

ALREADY = "%s is there already, made with these settings."

LOCK = "running.lock"


def work_folder(output: Path) -> Path:
    """Return where a step's unfinished work is: `OUTPUT.parts`."""
    return output.with_name(f"{output.name}.parts")


def hold(folder: Path) -> FileLock:
    """Keep other calls out of a folder of unfinished work, until what is returned is released or this process ends.

    Raises:
        ValueError: if another call is at work there.
    """
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise ValueError(f"{folder}: another call is at work there. Wait for it, or end it.") from error
    return lock


class StepWork:
    """A step's unfinished work.

    Args:
        output: of the step.
        settings: of the step, values that JSON can hold.
        inputs: digests of what it reads (`step_inputs.input_digests`).
        is_shared: whether other processes of this call work in the folder (default False): a failure of one then deletes
            nothing.
        is_first: whether this is the process that keeps other calls out (default True).

    Raises:
        ValueError: if it was begun with other settings or files; when it is entered, if another call is at work there.
    """

    def __init__(
        self,
        output: Path,
        settings: Mapping[str, Any],
        inputs: Mapping[str, str],
        is_shared: bool = False,
        is_first: bool = True,
    ) -> None:
        self.output, self.folder, self.is_shared = output, work_folder(output), is_shared
        self._is_first = is_first
        self._memory = PeakMemory()
        self._lock: FileLock | None = None
        self.facts: dict[str, Any] = {"settings": dict(settings), "inputs": dict(inputs)}
        self._plan = {"settings": value_digest(settings), "inputs": dict(inputs)}
        self._cheap: set[str] = set()
        if (self.folder / PLAN).exists():
            begun = read_json(self.folder / PLAN)
            differs = [name for name, value in self._plan.items() if begun.get(name) != value]
            if differs:
                raise ValueError(
                    f"{self.folder} was begun with something else (what differs: {', '.join(differs)}). Choose another output, "
                    "or delete this folder."
                )
        elif self._has_dear():
            raise ValueError(
                f"{self.folder}: expected no folder, or unfinished work, got files of another kind. Move them."
            )
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / PLAN, self._plan)

    def __enter__(self) -> "StepWork":
        """Keep other calls out, until this one is over."""
        self._lock = hold(self.folder) if self._is_first else None
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Leave nothing of a call that failed before there was anything dear: it may be mended by other settings."""
        if kind is not None and issubclass(kind, Exception) and not self.is_shared and not self._has_dear():
            self.remove()
        if self._lock is not None:
            self._lock.release()
        # Told and not written: the folder has the same bytes whatever was killed on the way.
        if kind is None and self._is_first and (told := in_words(self._memory.peaks)):
            logger.info("%s: %s.", self.output, told)

    def cheap(self, name: str) -> Path:
        """Say that what a folder holds is made again in no time, and return the folder."""
        self._cheap.add(name)
        return self.folder / name

    def _has_dear(self) -> bool:
        folders = [found for found in self.folder.glob("*") if found.is_dir() and found.name not in self._cheap]
        return any(file.is_file() and file.name != PLAN for folder in folders for file in folder.rglob("*"))

    def parts(self, name: str, schema: pa.Schema, anew: bool = False) -> RowParts:
        """Open rows that are being made.

        Args:
            name: of their folder.
            schema: of the rows.
            anew: forget unfinished ones (default: go on with them): for rows that are made faster than skipped.
        """
        found = RowParts(self.cheap(name) if anew else self.folder / name, schema)
        if anew and not found.is_complete and found.records:
            shutil.rmtree(found.folder)
            return RowParts(self.folder / name, schema)
        return found

    def remove(self) -> None:
        """Delete it: the output is there, or nothing in it is worth keeping."""
        shutil.rmtree(self.folder, ignore_errors=True)


def run_step(
    output: Path, settings: Mapping[str, Any], inputs: Mapping[str, str], make: Callable[[StepWork], None]
) -> Path:
    """Make a step's output; nothing is done where it is there already.

    Args:
        output: folder that is written whole or not at all.
        settings: of the step, values that JSON can hold.
        inputs: digests of what it reads.
        make: writes the output, with what it keeps until then.

    Returns:
        The output folder.

    Raises:
        ValueError: if it holds something else, or was begun with other settings or files.
    """
    if is_step_done(output, settings, inputs):
        logger.warning(ALREADY, output)
        shutil.rmtree(work_folder(output), ignore_errors=True)  # a call may have been killed when all but this was done
        return output
    with StepWork(output, settings, inputs) as work:
        make(work)
        work.remove()
    return output
