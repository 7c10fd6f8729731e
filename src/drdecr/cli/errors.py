"""Which errors a command shows as one line, and how."""

from safetensors import SafetensorError

from drdecr.modeling_drdecr.hub_drdecr import TRANSPORT_ERRORS, explain_hub_error, without_tokens

EXPECTED = (ValueError, OSError, ImportError, RuntimeError, SafetensorError, *TRANSPORT_ERRORS)
"""Errors whose message names a cure. Any other is a mistake of this package and keeps its traceback."""

OF_THE_SYSTEM: dict[type[BaseException], str] = {
    FileNotFoundError: "no such file or folder. Check the path.",
    IsADirectoryError: "expected a file, got a folder. Name a file in it.",
    NotADirectoryError: "expected a folder, got a file. Choose another name.",
    FileExistsError: "expected a folder, got a file. Choose another name.",
    PermissionError: "may not be read, or not be written. Check its permissions.",
}
"""What is said of a file in place of the system's own words, which name no cure."""


def is_expected(error: BaseException) -> bool:
    """Tell whether an error's message names its cure."""
    return isinstance(error, EXPECTED)


def in_one_line(error: BaseException) -> str:
    """Return `error: ...` in one line, without tokens.

    A failure of the Hub is told with its cure; a broken weight file, which says nothing of itself, is called by its name.
    """
    known = explain_hub_error(error)
    if known is not None:
        return f"error: {known}"
    cure = OF_THE_SYSTEM.get(type(error))
    if cure is not None and isinstance(error, OSError) and error.filename is not None:
        return without_tokens(f"error: {error.filename}: {cure}")
    broken = "broken weights, written or copied in part? " if isinstance(error, SafetensorError) else ""
    return without_tokens(f"error: {broken}{' '.join(str(error).split())}")
