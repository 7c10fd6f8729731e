"""The command line: the app, its groups, logging and one-line errors. `drdecr --help` lists the commands."""

import logging
import sys
import time
from typing import Annotated

import typer

from drdecr import __version__

from . import data, evaluate, index, model, search, train
from .options import HELP, OVERRIDES, is_first_process
from .terminal import PrintableFormatter, check_arguments, console, replace_what_cannot_be_shown

app = typer.Typer(
    no_args_is_help=True,
    context_settings=HELP,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Cross-lingual late-interaction retrieval: distil a multilingual ColBERT student from an English teacher.",
)
app.command(context_settings=OVERRIDES, rich_help_panel="Train")(train.demo)
app.command(context_settings=OVERRIDES, rich_help_panel="Train")(train.train)
app.command(rich_help_panel="Train")(train.keys)
app.add_typer(data.app, name="data", rich_help_panel="Train")
app.command(rich_help_panel="Search")(search.search)
app.command(rich_help_panel="Search")(search.rerank)
app.command(rich_help_panel="Search")(search.serve)
app.command(rich_help_panel="Search")(search.page)
app.add_typer(index.app, name="index", rich_help_panel="Search")
app.add_typer(evaluate.app, name="eval", rich_help_panel="Measure and share")
app.add_typer(model.app, name="model", rich_help_panel="Measure and share")
app.command(rich_help_panel="Measure and share")(model.push)


@app.callback(invoke_without_command=True)
def common(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show a traceback with an error.")] = False,  # see `main`
) -> None:
    """Read the options before the command."""
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter("%(message)s"))
    logging.basicConfig(level=logging.INFO if is_first_process() else logging.ERROR, handlers=[handler])
    for noisy in ("httpx", "httpx2", "httpcore", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line; an error that names its cure is printed as one line, not as a traceback."""
    replace_what_cannot_be_shown()
    try:
        check_arguments(sys.argv[1:])
        app()
    except Exception as error:
        from .errors import in_one_line, is_expected  # these load the Hub's client, which `--help` does not need

        if "--verbose" in sys.argv or not is_expected(error):
            raise
        console(stderr=True).print(in_one_line(error), style="red", soft_wrap=True)
        sys.exit(1)
    finally:
        leave_process_group()


def leave_process_group() -> None:
    """Leave the process group in order.

    With gloo and torch 2.13 the interpreter may hang at exit when the last collective is still being freed
    (pytorch #190489); a short pause before the group is destroyed avoids it. Goes when that issue is closed.
    """
    if "torch" not in sys.modules:
        return
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        time.sleep(0.2)
        torch.distributed.destroy_process_group()
