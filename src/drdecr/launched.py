"""Commands as modules, for `accelerate launch -m drdecr.annotate` and `... -m drdecr.encode`: on one device or many."""

import sys

from .cli import app
from .errors import SHOWN, in_one_line
from .processes import shut_down


def run_launched(command: str, arguments: list[str] | None = None) -> None:
    """Run a command of `drdecr` in each of the processes; an error is one line and exit code 1.

    Args:
        command: its name.
        arguments: behind it (default: those of the process).
    """
    try:
        app([command, *(sys.argv[1:] if arguments is None else arguments)], standalone_mode=False)
    except SHOWN as error:
        sys.stderr.write(in_one_line(error) + "\n")
        sys.exit(1)
    finally:
        shut_down()
