"""What a step of the data path keeps beside its output until it is done, so that a killed call goes on."""

import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from drdecr.data.digests import value_digest
from drdecr.data.row_parts import RowParts
from drdecr.data.whole_files import read_json, write_json

from .step_card import is_step_done

logger = logging.getLogger(__name__)

PLAN = "plan.json"

ALREADY = "%s is there already, made with these settings."

REFUSALS = (ValueError, ImportError, OSError)


def work_folder(output: Path) -> Path:
    """Return where a step's unfinished work is: `OUTPUT.parts`."""
    return output.with_name(f"{output.name}.parts")


class StepWork:
    """A step's unfinished work.

    Args:
        output: of the step.
        settings: of the step, values that JSON can hold.
        inputs: digests of what it reads (`step_inputs.input_digests`).

    Raises:
        ValueError: if it was begun with other settings or files.
    """

    def __init__(self, output: Path, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> None:
        self.output, self.folder = output, work_folder(output)
        self.facts: dict[str, Any] = {"settings": dict(settings), "inputs": dict(inputs)}
        plan = {"settings": value_digest(settings), "inputs": dict(inputs)}
        if (self.folder / PLAN).exists():
            begun = read_json(self.folder / PLAN)
            differs = [name for name, value in plan.items() if begun.get(name) != value]
            if differs:
                raise ValueError(
                    f"{self.folder} was begun with something else (what differs: {', '.join(differs)}). Choose another output, "
                    "or delete this folder."
                )
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / PLAN, plan)

    def __enter__(self) -> "StepWork":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Leave nothing of a call that was refused before any part was whole: another may be given."""
        if kind is not None and issubclass(kind, REFUSALS) and not any(self.folder.glob("*/*.parquet")):
            self.remove()

    def parts(self, name: str, schema: pa.Schema, anew: bool = False) -> RowParts:
        """Open rows that are being made.

        Args:
            name: of their folder.
            schema: of the rows.
            anew: forget unfinished ones (default: go on with them): for rows that are made faster than skipped.
        """
        found = RowParts(self.folder / name, schema)
        if anew and not found.is_complete and found.records:
            shutil.rmtree(found.folder)
            return RowParts(self.folder / name, schema)
        return found

    def remove(self) -> None:
        """Delete it, when the output is there."""
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
