"""A Trainer's pushes: a checkpoint that loads, a card that is true, in one commit and without pickles."""

import os
import shutil
import tempfile
from collections.abc import Sequence
from glob import escape
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard, ModelCardData

from drdecr.data.hub_repositories import NOT_PUSHED, PICKLES, REPLACED
from drdecr.modeling_drdecr.hub_errors_drdecr import explained
from drdecr.modeling_drdecr.pushing_drdecr import stale_files

from .training_state import STATE_FILES, pack_state

Staged = tempfile.TemporaryDirectory[str]

LAST = "last-checkpoint"
"""Folder of the newest checkpoint in a repository; the Trainer's own name for it."""

STAGED = ".push-"
"""How the folders begin in which a checkpoint is set aside."""


def stage_checkpoint(checkpoint: str | Path, beside: str | Path, copy_to: str | None = None) -> Staged:
    """Set a checkpoint aside for a push, as links: the training may delete it before the push has read it.

    Args:
        checkpoint: its folder.
        beside: an existing folder of the same disk.
        copy_to: name of a folder in the repository that takes all of the checkpoint too, to resume from; its pickles
            become safetensors in the push (`pack_state`).

    Returns:
        The folder, laid out as the repository will be.
    """
    staged = tempfile.TemporaryDirectory(dir=beside, prefix=STAGED)
    for path in Path(checkpoint).iterdir():
        is_state = path.name.startswith((*STATE_FILES, "trainer_state.json"))
        is_model = path.is_file() and path.suffix != ".md" and not is_state and path.name != "training_args.bin"
        is_part = path.is_dir() and any((path / name).exists() for name in ("config.json", "adapter_config.json"))
        if is_model or is_part:
            _link(path, Path(staged.name) / path.name)
        if copy_to and (is_model or is_part or (is_state and path.is_file())):
            _link(path, Path(staged.name) / copy_to / path.name)
    return staged


def sweep_staged(beside: str | Path) -> None:
    """Remove what a training that was killed had set aside: its links hold the room of checkpoints long deleted."""
    for folder in Path(beside).glob(f"{STAGED}*"):
        shutil.rmtree(folder, ignore_errors=True)


def push_staged(api: HfApi, staged: Staged, repository: str, message: str, revision: str | None = None) -> Any:
    """Push what was set aside, and remove it, however the push ends."""
    with staged as folder:
        for state in Path(folder).glob("*/trainer_state.json"):
            pack_state(state.parent)
        return push_folder(api, folder, repository, message, revision, left_out=PICKLES)


def push_folder(
    api: HfApi,
    folder: str | Path,
    repository: str,
    message: str | None,
    revision: str | None = None,
    left_out: Sequence[str] = NOT_PUSHED,
) -> Any:
    """Push a folder in one commit, in place of the model that stands in the repository's root.

    Folders of the repository stay as they are, but for `last-checkpoint/` where a newer one is pushed.

    Args:
        api: of who pushes.
        folder: a whole model or adapter.
        repository: `user/name`.
        message: of the commit.
        revision: branch; default `main`.
        left_out: patterns of files that stay here.

    Returns:
        The commit.

    Raises:
        HubError: if the Hub refuses, cannot be reached, or another's commit came in between.
    """
    patterns = REPLACED if (Path(folder) / "config.json").exists() else PICKLES
    with explained(repository):
        parent = api.model_info(repository, revision=revision).sha
        there = api.list_repo_files(repository, revision=parent)
        stale = stale_files(there, patterns)  # what is sent again is not taken out: `upload_folder` sees to it
        if (Path(folder) / LAST).exists():
            stale += [name for name in there if name.startswith(f"{LAST}/")]
        return api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message=message,
            revision=revision,
            parent_commit=parent,
            ignore_patterns=list(left_out),
            delete_patterns=[escape(name) for name in stale],
        )


def _link(source: Path, target: Path) -> None:
    """Link a file, or those of a folder, or copy them where the disk knows no links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_link_file)
    else:
        _link_file(source, target)


def _link_file(source: Any, target: Any) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def write_training_card(
    folder: str | Path, args: Any, base_model: str | None, log: list[dict[str, Any]], library: str = "transformers"
) -> None:
    """Write a card that says what a training knows of itself: the loss terms, their weights and where they stand.

    Args:
        folder: that it is written into, as `README.md`.
        args: a `DistillationArguments`.
        base_model: Hub name of the model that was trained, if it has one.
        log: the Trainer's `log_history`.
        library: transformers (default), or peft for an adapter.
    """
    data = ModelCardData(
        library_name=library,
        pipeline_tag="sentence-similarity",
        tags=["drdecr", "ColBERT", "late-interaction"],
        base_model=base_model,
    )
    last: dict[str, Any] = next((line for line in reversed(log) if "loss" in line), {})
    terms = [f"| {term} | {weight:g} | {last.get(term, '')} |" for term, weight in args.term_weights.items()]
    lines = [
        f"---\n{data.to_yaml()}\n---\n",
        "# ColBERT student\n" if library == "transformers" else "# Adapter of a ColBERT student\n",
        "Trained with drdecr. `AutoModel.from_pretrained(..., trust_remote_code=True)` opens it; `encode_queries`,",
        "`encode_documents` and `score` search with it.\n",
        "| loss term | weight | last value |\n|---|---|---|",
        *terms,
        "",
        *([f"After {last['step']} steps. It has not been evaluated on a test set."] if "step" in last else []),
    ]
    ModelCard("\n".join(lines) + "\n").save(Path(folder) / "README.md")
