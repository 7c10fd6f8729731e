"""Search over encoded passages with exact MaxSim."""

from .exact import ExactIndex, Hits

__all__ = ["ExactIndex", "Hits"]
