"""`drdecr`, `python -m drdecr` and `accelerate launch -m drdecr train RECIPE.yaml`: the command line."""

from .cli.main import main

if __name__ == "__main__":
    main()
