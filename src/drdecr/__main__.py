"""`python -m drdecr`, and `accelerate launch -m drdecr train RECIPE.yaml` on one device or many: the command line."""

from .cli.main import main

main()
