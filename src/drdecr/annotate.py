"""`accelerate launch -m drdecr.annotate ROWS OUTPUT --teacher CHECKPOINT`: `drdecr annotate`, on one device or many."""

import sys

from .cli import app
from .errors import SHOWN, in_one_line
from .processes import shut_down


def main(arguments: list[str] | None = None) -> None:
    """Run `drdecr annotate` with these arguments; an error is one line and exit code 1."""
    try:
        app(["annotate", *(sys.argv[1:] if arguments is None else arguments)], standalone_mode=False)
    except SHOWN as error:
        sys.stderr.write(in_one_line(error) + "\n")
        sys.exit(1)
    finally:
        shut_down()


if __name__ == "__main__":
    main()
