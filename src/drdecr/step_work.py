"""What a step of the data path keeps beside its output until it is done, so that a killed call goes on."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from drdecr.data.digests import value_digest
from drdecr.data.row_parts import RowParts
from drdecr.data.whole_files import read_json, write_json

PLAN = "plan.json"


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
        self.folder = work_folder(output)
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
        if kind is not None and issubclass(kind, ValueError) and not any(self.folder.glob("*/*.parquet")):
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
