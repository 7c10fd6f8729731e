"""R@kt as an `evaluate` metric: `evaluate.load(this folder)`, or the Space that it is pushed to."""
