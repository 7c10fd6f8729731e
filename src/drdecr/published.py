"""What is published names no folder of this machine: the rest of a path is nobody else's business."""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_ABSOLUTE = re.compile(r"""(?:(?<=^-[A-Za-z])|(?<![\w/.~$}*-]))/(?!/)[^\s"'`,;:=\[\]{}()]+""")
"""An absolute path within a word of a command, such as behind `--key=` or in a list."""


def shown(value: Any) -> Any:
    """Return a value without this machine's folders: an absolute path as `$DRDECR_DATA/...`, or elsewhere its last part."""
    if isinstance(value, Mapping):
        return {key: shown(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [shown(part) for part in value]
    if not isinstance(value, str) or not Path(value).is_absolute():
        return value
    root = os.environ.get("DRDECR_DATA")
    if root and Path(value).is_relative_to(root):
        return f"$DRDECR_DATA/{Path(value).relative_to(root).as_posix()}"
    return Path(value).name or value


def shown_command(words: Sequence[str]) -> str:
    """Return a command line in one line, its paths as `shown` gives them.

    Example:
        >>> shown_command(["/home/me/bin/drdecr", "mine", "/home/me/mine.yaml", "--reader=/runs/a b", "runs/out"])
        "drdecr mine mine.yaml '--reader=a b' runs/out"
    """
    return shlex.join(_shown_word(word) for word in words)


def _shown_word(word: str) -> str:
    word = word.replace("file:///", "/")
    option, equals, path = word.partition("=")
    if equals and option.startswith("-") and Path(path).is_absolute():
        return f"{option}={shown(path)}"
    return shown(word) if Path(word).is_absolute() else _ABSOLUTE.sub(lambda found: shown(found.group()), word)
