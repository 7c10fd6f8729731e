"""Which errors a command shows as one line, and how."""

from safetensors import SafetensorError

SHOWN = (ValueError, OSError, ImportError, RuntimeError, SafetensorError)
"""What names its cure. Anything else is a mistake of this package and keeps its traceback."""


def in_one_line(error: BaseException) -> str:
    """Return `error: ...` in one line; a broken weight file, which says nothing of itself, is called by its name."""
    broken = "broken weights, written or copied in part? " if isinstance(error, SafetensorError) else ""
    return f"error: {broken}{' '.join(str(error).split())}"
