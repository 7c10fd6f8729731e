"""`accelerate launch -m drdecr.train RECIPE.yaml [--key value ...]`: `drdecr train`, on one device or many."""

from .cli.launched import run_launched

if __name__ == "__main__":
    run_launched("train")
