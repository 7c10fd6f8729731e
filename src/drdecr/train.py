"""`accelerate launch -m drdecr.train RECIPE.yaml [--key value ...]`: one stage, on one device or many."""

import logging
import sys

from .errors import SHOWN, in_one_line
from .processes import is_main_process, shut_down
from .recipe import load_recipe
from .stage import run_stage


def main(arguments: list[str] | None = None) -> None:
    """Run the stage that a recipe describes; an error is one line and exit code 1."""
    arguments = sys.argv[1:] if arguments is None else arguments
    level = logging.INFO if is_main_process() else logging.ERROR  # one log, not one a process
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(f"usage: {__doc__}\nKeys are those of the recipe; see `drdecr train --help`.\n")
        return
    try:
        run_stage(load_recipe(arguments[0], arguments[1:]))
    except SHOWN as error:
        sys.stderr.write(in_one_line(error) + "\n")
        sys.exit(1)
    finally:
        shut_down()


if __name__ == "__main__":
    main()
