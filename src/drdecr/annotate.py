"""`accelerate launch -m drdecr.annotate ROWS OUTPUT --teacher CHECKPOINT`: `drdecr annotate`, on one device or many."""

from .cli.launched import run_launched

if __name__ == "__main__":
    run_launched("annotate")
