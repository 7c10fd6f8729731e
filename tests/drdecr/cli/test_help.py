"""Help is quick and complete: no heavy library is loaded for it, and each command shows an example and its docs."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from drdecr.cli.main import app

HEAVY = (
    "torch",
    "transformers",
    "datasets",
    "gradio",
    "matplotlib",
    "scipy",
    "pandas",
    "numpy",
    "huggingface_hub",
)


def commands(group: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*words, name))
        else:
            yield (*words, name), command


COMMANDS = dict(commands(typer.main.get_command(app)))


def test_the_commands_are_those_of_the_documentation():
    names = {" ".join(words) for words in COMMANDS}
    assert names == {
        *("demo", "train", "keys", "search", "rerank", "serve", "page", "push"),
        *(f"index {name}" for name in ("build", "compress", "compact", "delete", "calibrate")),
        *(f"eval {name}" for name in ("model", "run", "compare", "systems", "bias")),
        *(f"data {name}" for name in ("sources", "prepare", "translate", "mine", "annotate", "export")),
        *(f"model {name}" for name in ("convert", "offline")),
    }


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_each_command_shows_an_example_and_names_its_docs(words):
    text = COMMANDS[words].help
    assert f"Example: `drdecr {' '.join(words)}" in text
    assert re.search(r"docs/\w+\.md", text)


def test_no_heavy_library_is_loaded_for_help(run_python):
    calls = [["--help"], *([*words, "--help"] for words in COMMANDS)]
    code = f"""
import contextlib, io, sys
from drdecr.cli.main import app
for words in {calls!r}:
    with contextlib.redirect_stdout(io.StringIO()):
        app(words, standalone_mode=False)
print(*sorted({set(HEAVY)!r} & set(sys.modules)))
"""
    assert run_python("-c", code).stdout.split() == []
