"""Options and helpers that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

OVERRIDES = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Context of commands that take `--key value` pairs for a YAML file."""

HELP = {"help_option_names": ["-h", "--help"]}

DOCUMENTS = "JSONL, TSV or parquet file, folder of text files, or hub:NAME."

WhereOption = Annotated[
    list[str] | None, typer.Option("--where", help="key=value that a document's metadata must have; may be repeated.")
]
CalibratedOption = Annotated[
    bool, typer.Option("--calibrated", help="Scores that compare across languages, after `drdecr index calibrate`.")
]
TranslateFromOption = Annotated[
    str | None, typer.Option("--translate-from", help="Language of the questions, to translate them to English: fi ...")
]
TranslatorOption = Annotated[
    str | None, typer.Option("--translator", help="Translator to use first: apertium, or a seq2seq model.")
]
QueryModelOption = Annotated[
    str | None, typer.Option("--model", help="Model that reads the questions; default: the one that made the index.")
]
SearchByOption = Annotated[str, typer.Option("--by", help="exact, or candidates by centroids.")]
CandidatesOption = Annotated[
    int, typer.Option("--num-candidates", help="Passages scored exactly, with candidates.", min=1)
]
LicenseOption = Annotated[str | None, typer.Option("--license", help="Licence of the whole, for the card.")]
TokenFolderOption = Annotated[
    Path | None,
    typer.Option("--token-folder", help="Folder of passage tokens, so that another call does not encode them again."),
]


def new_group(help_text: str) -> typer.Typer:
    """Return a group of commands that shows its help where no command is named."""
    return typer.Typer(no_args_is_help=True, context_settings=HELP, help=help_text)


def is_first_process() -> bool:
    """Tell whether this process prints and pushes; a launcher starts several, and torch need not be loaded to know."""
    import os

    return os.environ.get("RANK", "0") == "0"


def check_parent(output: Path | None) -> None:
    """Raise `FileNotFoundError` before a long computation if the folder of its output file does not exist."""
    if output and not output.parent.is_dir():
        raise FileNotFoundError(f"{output}: expected its folder to exist. Make {output.parent} first.")


def count_of(number: int, noun: str) -> str:
    """Return `1 passage`, `2 passages`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def check_address(host: str, port: int | None) -> None:
    """Check that an address can be listened at, before a model is loaded for nothing.

    Raises:
        ValueError: naming the address and what is wrong with it.
    """
    import socket

    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(
            f"{host}:{port or ''} cannot be listened at ({reason}). Choose another --host or --port."
        ) from error
