"""JSON files that are written whole or not at all, and read with an error that names the file."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def check_survives_json(name: str, value: Any) -> None:
    """Refuse what JSON would change or lose: tuples, sets, keys that are no strings, NaN, arrays.

    Args:
        name: how the error calls the value.
        value: what is to be kept.

    Raises:
        ValueError: when reading back would not give an equal value of the same kind.
    """
    try:
        survived = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} must hold only what JSON can, got {value!r}: {error}. Use str, numbers, lists."
        ) from error
    if survived != value:
        raise ValueError(f"{name} would come back from JSON as {survived!r}, got {value!r}. Use lists and string keys.")


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write to a file beside the goal and rename it: whoever reads sees the old file or the new, never a part.

    Args:
        path: file to write; its folder must exist.
        content: what to write; floats are kept to the last bit.

    Raises:
        ValueError: for NaN or infinity, which JSON does not know; the old file stays.
        OSError: when the folder is missing or full; the old file stays.
    """
    path = Path(path)
    text = json.dumps(content, ensure_ascii=False, indent=2, allow_nan=False) + "\n"
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # same folder, so that renaming is one step
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # without it a crash of the machine can leave the new name on an empty file
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_json(path: str | Path, *keys: str) -> dict[str, Any]:
    """Read an object and check that it has the keys wanted.

    Args:
        path: file to read.
        keys: what the object must hold.

    Returns:
        The object.

    Raises:
        ValueError: for a file that is no JSON object or lacks a key; the message names the file.
    """
    try:
        content: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no whole JSON file: {error}. Make it again.") from error
    missing = [key for key in keys if not isinstance(content, dict) or key not in content]
    if missing:
        raise ValueError(f"{path} should hold {', '.join(keys)}, but lacks {', '.join(missing)}. Is it another file?")
    return content
