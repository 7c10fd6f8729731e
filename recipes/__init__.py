"""Recipes: one YAML a run, numbers with their reasons."""
