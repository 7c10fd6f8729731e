"""Commands as modules, for `accelerate launch -m drdecr.train` and `... -m drdecr.annotate`."""

import logging
import sys

from drdecr.data.shards import is_main_process

from .errors import SHOWN, in_one_line
from .main import app, shut_down


def run_launched(command: str, arguments: list[str] | None = None) -> None:
    """Run a command of `drdecr` in each of the processes, on one device or many, and exit.

    An error is one line and exit code 1, wrong usage is told as by `drdecr` itself.

    Args:
        command: its name.
        arguments: behind it (default: those of the process).
    """
    level = logging.INFO if is_main_process() else logging.ERROR  # one log, not one a process
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")
    try:
        app([command, *(sys.argv[1:] if arguments is None else arguments)])
    except SHOWN as error:
        sys.stderr.write(in_one_line(error) + "\n")
        sys.exit(1)
    finally:
        shut_down()
