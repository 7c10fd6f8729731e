"""Pushes to the Hub in one commit, and its errors in one line with their cure. No token is ever shown.

The Hub's client and transformers report one failure in many ways and many lines: `explain_hub_error` reads the whole chain
of errors. This module travels with the model, so that its own pushes and loads use it too.
"""

import errno
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    ModelCard,
    ModelCardData,
    constants,
    get_token,
)
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
def hub_errors(name: str | None = None, token: bool | str | None = None) -> Iterator[None]:
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
        message = explain_hub_error(error, name, token)
        if message is None:
            raise
        # A traceback prints the errors below as they are: with a token in them, they are left out.
        texts = " ".join(repr(cause) for cause in _chain(error))
        has_token = _has_unfit_token(error) or without_tokens(texts, token) != texts
        raise HubError(message) from (None if has_token else error)


def explain_hub_error(error: BaseException, name: str | None = None, token: bool | str | None = None) -> str | None:
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
    for cause in _chain(error):
        message = _message(cause, name)
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
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        yield cause
        seen.append(cause)
        cause = cause.__cause__ or cause.__context__


def _has_unfit_token(error: BaseException) -> bool:
    """Tell whether the HTTP client refused to send the token; its errors then show it."""
    return any(
        "Illegal header value" in str(cause)
        or (isinstance(cause, UnicodeEncodeError) and str(cause.object).startswith("Bearer "))
        for cause in _chain(error)
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
    match = pattern.search(text)
    return match.group(1) if match else None


TAGS = ["drdecr", "ColBERT", "late-interaction"]

STALE = ("model*.safetensors", "model.safetensors.index.json", "*_drdecr.py")
"""Patterns of files that a push of a model takes out of a repository's root: they would be loaded with the new model."""

PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl")
"""Patterns of pickles, which can do harm to whoever opens them."""

MODEL_FILES = (
    *("README.md", "curves.png", "*_drdecr.py", "modules.json", "artifact.metadata"),
    *("config*.json", "generation_config.json", "processor_config.json", "chat_template.jinja"),
    *("model*.safetensors", "model.safetensors.index.json", "adapter_config.json", "adapter_model*.safetensors"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt"),
    *("vocab.json", "merges.txt", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model"),
)
"""Patterns of all that goes to the Hub with a model. What else lies in its folder stays, whatever its name."""

REPLACED = ("adapter_*", *STALE, *PICKLES)
"""Patterns that a push of a whole model folder takes out of the root: another model's files, or another version's code."""

CARD = """---
{front_matter}
---

# {title}

A ColBERT model: it gives questions and passages a vector a token, and compares them by MaxSim.{origin}

## How to use

With transformers alone; the model's own code travels in this repository:

```python
from transformers import AutoModel

model = AutoModel.from_pretrained("{repo_id}", trust_remote_code=True)
questions = model.encode_queries(["..."])
passages = model.encode_documents(["...", "..."])
scores = model.score(questions, passages)  # (questions, passages), higher is better
```

With the package, `from drdecr import DrDecrModel` and `DrDecrModel.from_pretrained(...)` do the same without `trust_remote_code`.

Nothing is said here about how it was trained and what it is worth, since whoever pushed it has not written it down.
"""
"""The card of a push from a script. `model_card.md`, which a run's card is made from, does not travel with the model."""


def model_card(repo_id: str, base_model: str | None = None) -> str:
    """Return the card of a model of which nothing is known but, maybe, the model that it was made from."""
    data = ModelCardData(
        library_name="transformers", pipeline_tag="sentence-similarity", tags=TAGS, base_model=base_model
    )
    return CARD.format(
        front_matter=data.to_yaml(),
        title=repo_id.split("/")[-1],
        repo_id=repo_id,
        origin=f" It was made from `{base_model}`." if base_model else "",
    )


def hub_name(name_or_path: str) -> str | None:
    """Return the Hub name that a model was loaded by, or None for a folder and for a model that was not loaded."""
    is_name = re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name_or_path) and not Path(name_or_path).exists()
    return name_or_path if is_name else None


def matches_root(patterns: Iterable[str]) -> Callable[[str], bool]:
    """Return a function that tells whether a file stands in a repository's root and matches one of the patterns.

    Files in folders never match: they belong to another model, such as an earlier checkpoint or an adapter.
    """
    known = tuple(patterns)
    return lambda name: "/" not in name and any(fnmatch(name, pattern) for pattern in known)


def list_folder_files(
    folder: str | Path, is_pushed: Callable[[PurePosixPath], bool] = lambda name: True
) -> dict[str, Path]:
    """Return the files of a folder that go to the Hub, by their relative paths.

    Args:
        folder: of a model or a data set.
        is_pushed: tells by a relative path whether a file goes; default: all do, as of a folder that was just written.

    Raises:
        ValueError: for a file that goes and is a link out of the folder: what it leads to was not written for others.
    """
    root = Path(folder).resolve()
    files: dict[str, Path] = {}
    for path in sorted(Path(folder).rglob("*")):
        name = PurePosixPath(path.relative_to(folder).as_posix())
        if not path.is_file() or not is_pushed(name):
            continue
        if not path.resolve().is_relative_to(root):
            raise ValueError(f"{path}: expected a file, got a link out of the folder. Put a copy in its place.")
        files[str(name)] = path
    return files


def is_model_file(name: PurePosixPath) -> bool:
    """Whether a file of a model's folder is part of the model: in the folder itself, or of a projection or an adapter in it."""
    inside = name.parent.as_posix()
    patterns = {".": MODEL_FILES, "1_Dense": ("config.json", "model.safetensors")}
    of_adapter = ("adapter_config.json", "adapter_model*.safetensors") if "/" not in inside else ()
    return any(fnmatch(name.name, pattern) for pattern in patterns.get(inside, of_adapter))


def commit_files(
    api: HfApi,
    repository: str,
    files: Mapping[str, Path | bytes],
    message: str | None,
    is_stale: Callable[[str], bool] = lambda name: False,
    repo_type: str = "model",
    revision: str | None = None,
    **kwargs: Any,
) -> Any:
    """Push files in one commit: a reader gets the old state or the new one, never half of each.

    The Hub refuses the commit if another one came in between. Large files that arrived before are not sent again.

    Args:
        api: client of the user who pushes.
        repository: `user/name`.
        files: contents, or paths of them, by their names in the repository.
        message: of the commit.
        is_stale: tells which other files of the repository are deleted (default: none).
        repo_type: `model` (default), `dataset` or `space`.
        revision: branch; default `main`.
        **kwargs: passed to `HfApi.create_commit` (`commit_description`, `create_pr`).

    Returns:
        The commit.
    """
    parent = api.repo_info(repository, repo_type=repo_type, revision=revision).sha
    present = api.list_repo_files(repository, repo_type=repo_type, revision=parent)
    operations: list[Any] = [
        *(CommitOperationAdd(name, content) for name, content in files.items()),
        *(CommitOperationDelete(name) for name in present if name not in files and is_stale(name)),
    ]
    return api.create_commit(
        repository,
        operations,
        commit_message=message or "Upload files",
        repo_type=repo_type,
        revision=revision,
        parent_commit=parent,
        **kwargs,
    )


def push_saved(
    item: Any,
    repo_id: str,
    card: Any = None,
    commit_message: str = "Upload model",
    commit_description: str | None = None,
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    tags: list[str] | None = None,
    stale: Iterable[str] = (),
    **kwargs: Any,
) -> Any:
    """Push what an object's `save_pretrained` writes, in one commit; the arguments are those of transformers.

    A card that stands in the repository stays as it is, but for `tags`.

    Args:
        item: has a `save_pretrained(folder)`.
        repo_id: `user/name`, or `name` for the user's own; made if it is not there.
        card: called with the repository's whole name where it has no card yet; default: it gets none.
        commit_message: of the commit.
        commit_description: of the commit.
        private: whether a new repository is private; default: what its owner has set.
        token: default: the one that is logged in.
        revision: branch that is pushed to, made if it is not there (default `main`).
        create_pr: open a pull request instead.
        tags: added to those of the card.
        stale: patterns of files that are taken out of the repository's root where the push brings none of that name.
        **kwargs: passed to `save_pretrained` (`max_shard_size` ...).

    Returns:
        The commit.

    Raises:
        ValueError: if a public repository was to be private.
        HubError: if the Hub refuses or cannot be reached. The repository is then as it was.
    """
    with hub_errors(repo_id, token), tempfile.TemporaryDirectory() as folder:
        item.save_pretrained(folder, **kwargs)  # first: where it fails, there is no empty repository
        api = HfApi(token=token)
        repo_id = make_repository(api, repo_id, private)
        if revision and not revision.startswith("refs/pr") and not create_pr:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        _write_card(Path(folder) / "README.md", api, repo_id, revision, card, tags)
        return commit_files(
            api,
            repo_id,
            list_folder_files(folder),
            commit_message,
            matches_root(stale),
            revision=revision,
            commit_description=commit_description,
            create_pr=create_pr,
        )


def _write_card(path: Path, api: HfApi, repo_id: str, revision: str | None, card: Any, tags: list[str] | None) -> None:
    path.unlink(missing_ok=True)  # peft writes a form that is to be filled in
    has_card = api.file_exists(repo_id, path.name, revision=revision)
    if not has_card and card is not None:
        path.write_text(card(repo_id), encoding="utf-8")
    elif has_card and tags:
        path.write_bytes(Path(api.hf_hub_download(repo_id, path.name, revision=revision)).read_bytes())
    if tags and path.exists():
        changed = ModelCard.load(path)
        changed.data.tags = list(dict.fromkeys([*(changed.data.tags or []), *tags]))
        changed.save(path)


def make_repository(api: HfApi, repository: str, private: bool | None = False, **kwargs: Any) -> str:
    """Make a repository if there is none of that name.

    Args:
        api: of who is logged in.
        repository: `user/name`, or `name` for the user's own.
        private: make a new one private (default False); None: as its owner has set.
        **kwargs: as of `HfApi.create_repo` (`repo_type`, `space_sdk`).

    Returns:
        Its whole name.

    Raises:
        ValueError: if it was to be private, exists and is public.
    """
    repository = api.create_repo(repository, private=private, exist_ok=True, **kwargs).repo_id
    if private and not api.repo_info(repository, repo_type=kwargs.get("repo_type")).private:
        raise ValueError(
            f"{repository} exists and is public, so nothing was pushed. Make it private in its settings, or choose "
            "another name."
        )
    return repository
