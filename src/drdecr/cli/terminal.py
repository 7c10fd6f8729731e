"""What the command line prints, and what it is given: text that cannot steer the terminal, words that are text."""

import logging
import os
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

import typer

# Escape sequences begin with one of these; a text from elsewhere could clear the screen or set the clipboard by them.
_PICTURES = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"} | {
    0x7F: "\N{SYMBOL FOR DELETE}"
}
# C1 controls, marks that turn the direction of what follows, and halves of surrogate pairs.
_REPLACED = dict.fromkeys(
    (*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)), "\N{REPLACEMENT CHARACTER}"
)


def printable(text: str) -> str:
    r"""Return a text with pictures of its control characters, which a terminal would obey.

    >>> printable("a\x1b[2Jb")
    'a␛[2Jb'
    """
    return text.translate(_PICTURES | _REPLACED).encode("utf-8", "replace").decode("utf-8")


def echo(text: object) -> None:
    """Print a line of results."""
    typer.echo(printable(str(text)))


@cache
def console(stderr: bool = False) -> Any:
    """Return a rich console whose texts, in tables too, are `printable`."""
    from rich.console import Console
    from rich.text import Text

    class PrintableConsole(Console):
        def render_str(self, text: str, **settings: Any) -> Text:
            return super().render_str(printable(text), **settings)

    return PrintableConsole(stderr=stderr, markup=False)


class PrintableFormatter(logging.Formatter):
    """Log lines may quote ids and file names of others."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return printable(super().format(record))


def replace_what_cannot_be_shown() -> None:
    """Print `?` for characters that the terminal's encoding lacks: the result of long work must not be lost to one."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def check_arguments(words: Sequence[str]) -> None:
    """Check that no word of the command line is empty or, but for a file's name, other bytes than UTF-8.

    Raises:
        ValueError: naming the word.
    """
    for number, word in enumerate(words, start=1):
        if not word.strip():
            raise ValueError(
                f"Argument {number} is empty: a variable of the shell that is not set? Name it, or leave it out."
            )
        if not word.isascii() and word != word.encode("utf-8", "replace").decode("utf-8") and not os.path.exists(word):
            raise ValueError(f"Argument {number}: expected text in UTF-8, got {os.fsencode(word)!r}.")
