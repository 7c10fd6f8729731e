"""Pushes from a script: what `save_pretrained` writes, in one commit, beside a card that holds what is known and no more."""

import re
import tempfile
from collections.abc import Container, Iterable
from fnmatch import fnmatch
from glob import escape
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard, ModelCardData

from .hub_errors_drdecr import explained

TAGS = ["drdecr", "ColBERT", "late-interaction"]

STALE = ["model*.safetensors", "model.safetensors.index.json", "*_drdecr.py"]
"""What a push of a model takes out of a repository's root where it brings no file of that name: it would be loaded."""

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


def stale_files(there: Iterable[str], patterns: Iterable[str], sent: Container[str] = ()) -> list[str]:
    """Return the files of a repository's root that match a pattern and are not sent again.

    What stands in folders is another model's: an earlier checkpoint, an adapter. The Hub's own patterns would take it too.

    Args:
        there: all files of the repository.
        patterns: as of a shell, for names of the root.
        sent: names that the push brings.
    """
    known = tuple(patterns)
    root = [name for name in there if "/" not in name and name not in sent]
    return [name for name in root if any(fnmatch(name, pattern) for pattern in known)]


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
    stale: list[str] | None = None,
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
    with explained(repo_id, token), tempfile.TemporaryDirectory() as folder:
        item.save_pretrained(folder, **kwargs)  # first: where it fails, there is no empty repository
        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision and not revision.startswith("refs/pr") and not create_pr:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        found = api.model_info(repo_id, revision=revision)
        if private and not found.private:
            raise ValueError(
                f"{repo_id} exists and is public, so nothing was pushed. Make it private in its settings, or choose another name."
            )
        _write_card(Path(folder) / "README.md", api, repo_id, revision, card, tags)
        there = api.list_repo_files(repo_id, revision=revision) if stale else []
        return api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message=commit_message,
            commit_description=commit_description,
            revision=revision,
            create_pr=create_pr,
            parent_commit=found.sha,  # another's commit in between is refused by the Hub rather than mixed with ours
            delete_patterns=[escape(name) for name in stale_files(there, stale or ())],
        )


def _write_card(path: Path, api: HfApi, repo_id: str, revision: str | None, card: Any, tags: list[str] | None) -> None:
    path.unlink(missing_ok=True)  # peft writes a form that is to be filled in
    is_there = api.file_exists(repo_id, path.name, revision=revision)
    if not is_there and card is not None:
        path.write_text(card(repo_id), encoding="utf-8")
    elif is_there and tags:
        found = api.hf_hub_download(repo_id, path.name, revision=revision)
        path.write_bytes(Path(found).read_bytes())
    if tags and path.exists():
        changed = ModelCard.load(path)
        changed.data.tags = list(dict.fromkeys([*(changed.data.tags or []), *tags]))
        changed.save(path)
