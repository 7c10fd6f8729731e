"""Which errors a command shows as one line, and how."""

from safetensors import SafetensorError

from drdecr.modeling_drdecr.hub_errors_drdecr import TRANSPORT_ERRORS, explain, without_tokens

SHOWN = (ValueError, OSError, ImportError, RuntimeError, SafetensorError, *TRANSPORT_ERRORS)
"""What names its cure. Anything else is a mistake of this package and keeps its traceback."""


def in_one_line(error: BaseException) -> str:
    """Return `error: ...` in one line, without tokens.

    A failure of the Hub is told with its cure; a broken weight file, which says nothing of itself, is called by its name.
    """
    known = explain(error)
    if known is not None:
        return f"error: {known}"
    broken = "broken weights, written or copied in part? " if isinstance(error, SafetensorError) else ""
    return without_tokens(f"error: {broken}{' '.join(str(error).split())}")
