"""`accelerate launch -m drdecr.train RECIPE.yaml [--key value ...]`: one stage, on one device or many."""

import logging
import sys
import time

import torch

from .recipe import load_recipe
from .stage import run_stage


def main(arguments: list[str] | None = None) -> None:
    """Run the stage that a recipe describes."""
    arguments = sys.argv[1:] if arguments is None else arguments
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(f"usage: {__doc__}\nKeys are those of the recipe; see `drdecr train --help`.\n")
        return
    run_stage(load_recipe(arguments[0], arguments[1:]))
    shut_down()


def shut_down() -> None:
    """Leave the process group in order.

    With gloo and torch 2.13 the interpreter may hang at exit when the last collective is still being freed
    (pytorch #190489); a short pause before the group is destroyed avoids it. Goes when that issue is closed.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        time.sleep(0.2)
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
