"""Alignment, losses and the trainers of the stages."""
