"""What goes wrong between here and the Hub, in one line: what happened, and what to do. No token is ever shown.

The Hub's client and transformers tell of the same failure in many ways and in many lines. `explain` reads the errors that
led to the last one, and knows the cure. It travels with the model, whose own pushes and loads tell of failures like this.
"""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants, get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

TRANSPORT_ERRORS = (HTTPError,)
"""Errors of the HTTP client; they are no `OSError`."""

LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_TOKEN = re.compile(r"\b(?:(?:hf_oauth_|hf_jwt_|api_org_)[\w.\-]{8,}|hf_[A-Za-z0-9]{12,})")
_REPOSITORY = re.compile(
    r"//[^/]+/(?:api/)?(?:(?:models|datasets|spaces)/)?(?!repos/)([^/?]+/[^/?]+?)(?:\.git)?(?:[/?]|$)"
)
_REVISION = re.compile(r"/(?:resolve|revision|tree|preupload|commit|paths-info)/([^/?]+)")


class HubError(OSError):
    """A failure on the way to or from the Hub, told in one line with its cure."""


@contextmanager
def explained(name: str | None = None, token: bool | str | None = None) -> Iterator[None]:
    """Raise `HubError` in place of what the Hub's client raises; everything else passes.

    Args:
        name: the repository or folder that is asked for, to be named in the message.
        token: the one that was passed, whatever it looks like, which is not to be shown.
    """
    try:
        yield
    except HubError:
        raise
    except (OSError, ValueError, RuntimeError, *TRANSPORT_ERRORS) as error:  # RuntimeError: an upload that broke off
        message = explain(error, name, token)
        if message is None:
            raise
        # A traceback shows the errors below as they are.
        shown = " ".join(repr(found) for found in _chain(error))
        is_told = _has_unfit_token(error) or without_tokens(shown, token) != shown
        raise HubError(message) from (None if is_told else error)


def explain(error: BaseException, name: str | None = None, token: bool | str | None = None) -> str | None:
    """Return one line on what happened and its cure, or None for an error that has nothing to do with the Hub.

    Args:
        error: what was raised; the errors that led to it are read too.
        name: the repository that was asked for; default: what the error knows of it.
        token: the one that was passed, whatever it looks like, which is not to be shown.
    """
    if isinstance(error, HubError):
        return str(error)
    if _has_unfit_token(error):
        return f"Your token holds a line break, a blank or a letter beyond ASCII. Copy it anew, and {LOG_IN}."
    for found in _chain(error):
        message = _message(found, name)
        if message is not None:
            return without_tokens(message, token)
    return None


def without_tokens(text: str, token: bool | str | None = None) -> str:
    """Return a text with every token in it blotted out: the one that was passed, the one logged in, and what looks like one."""
    for known in (token, get_token()):
        if isinstance(known, str) and known.strip():
            text = text.replace(known.strip(), "hf_***")
    return _TOKEN.sub("hf_***", text)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that led to it, the last one first."""
    seen: list[BaseException] = []
    found: BaseException | None = error
    while found is not None and found not in seen:
        yield found
        seen.append(found)
        found = found.__cause__ or found.__context__


def _has_unfit_token(error: BaseException) -> bool:
    """Tell whether the HTTP client refused to send the token; its errors then show it."""
    return any(
        "Illegal header value" in str(found)
        or (isinstance(found, UnicodeEncodeError) and str(found.object).startswith("Bearer "))
        for found in _chain(error)
    )


def _message(error: BaseException, name: str | None) -> str | None:
    if isinstance(error, LocalTokenNotFoundError):
        return f"Not logged in to the Hub: {LOG_IN}."
    if isinstance(error, HfHubHTTPError):
        return _http_message(error, name)
    if isinstance(error, OfflineModeIsEnabled | LocalEntryNotFoundError):
        return _absent_message(error, name)
    if isinstance(error, HFValidationError):
        return name and f"{name}: no such folder, and no name that a repository can have (user/name). Check it."
    if _is_lost_connection(error):
        return _lost_message()
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        where = f" for {error.filename}" if error.filename else ""
        return (
            f"The disk is full: there is no room{where}. Free some, or choose another disk (HF_HOME for what is "
            "downloaded, `--output` for what is trained), and run it again; what is whole is kept."
        )
    return None


def _http_message(error: HfHubHTTPError, name: str | None) -> str | None:
    url = str(error.response.url)
    repository = name or _first(_REPOSITORY, url) or "the repository"
    status = error.response.status_code
    if status == 401 and error.response.headers.get("X-Error-Code") != "RepoNotFound":
        if "authorization" not in error.response.request.headers:
            return f"Not logged in to the Hub, which {repository} asks for: {LOG_IN}."
        return f"The Hub does not accept your token. It may have expired or be mistyped: {LOG_IN} anew."
    if isinstance(error, GatedRepoError):
        return f"{repository} is gated. Ask for access on {constants.ENDPOINT}/{repository}, and {LOG_IN}."
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"{repository}: no such folder here, and no such repository on the Hub, or a private one that you may not "
            f"read. Check the name; for a private one, {LOG_IN} of a user who may read it."
        )
    if isinstance(error, RevisionNotFoundError):
        return (
            f"{repository} has no revision {_first(_REVISION, url) or ''!r}. Name a branch, a tag or a commit that is "
            f"listed on {constants.ENDPOINT}/{repository}/commits/main."
        )
    if isinstance(error, RemoteEntryNotFoundError):
        return None  # transformers says which file, and which it would take instead
    if status == 403:
        return (
            f"Your token may not write to {repository}. Make one with the role `write`, of a user who owns the "
            f"repository or its organisation, and {LOG_IN}."
        )
    if status in (409, 412):
        return f"{repository} changed while you were writing to it, so nothing was written. Run it again."
    if status == 429:
        return (
            "The Hub asks for patience: too many requests. Wait some minutes and run it again; what is there is kept."
        )
    if status >= 500:
        return f"The Hub has a failure of its own ({status}). Run it again later; what has arrived is not sent again."
    said = " ".join((error.server_message or "no reason given").split())
    if url.endswith("/api/validate-yaml"):
        return (
            f"The Hub does not take the metadata of the card of {repository} (README.md), so nothing was pushed. "
            f"Correct it: {said}"
        )
    return f"The Hub refused the request for {repository} ({status}): {said}"


def _absent_message(error: BaseException, name: str | None) -> str:
    if constants.HF_HUB_OFFLINE or isinstance(error, OfflineModeIsEnabled):
        return (
            f"{name or 'What is asked for'} is not in the cache at {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE forbids "
            "to ask the Hub. Load it once without HF_HUB_OFFLINE."
        )
    if "outgoing traffic has been disabled" in str(error):
        return (
            f"{name or 'What is asked for'} is not in the cache, and `local_files_only` forbids to ask the Hub. Load it once "
            "without `local_files_only`."
        )
    return _lost_message()


def _is_lost_connection(error: BaseException) -> bool:
    if isinstance(error, BrokenPipeError):  # whoever read our output has gone; the Hub's is wrapped by its client
        return False
    is_answered = hasattr(error, "response")  # then the client's error stands beside one that says more
    return (
        (isinstance(error, TRANSPORT_ERRORS) and not is_answered)
        or isinstance(error, ConnectionError)
        or "Consistency check failed" in str(error)
    )


def _lost_message() -> str:
    return (
        f"The connection to {constants.ENDPOINT} failed or was lost. Check the network (and HF_ENDPOINT, if it is set) "
        "and run it again; what has arrived is kept and not sent again."
    )


def _first(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.search(text)
    return found.group(1) if found else None
