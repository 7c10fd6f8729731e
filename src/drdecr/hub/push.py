"""Push a model's folder to the Hub: all of it in one commit, or nothing."""

import json
from fnmatch import fnmatch
from importlib.resources import files
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from drdecr.modeling_drdecr.hub_drdecr import (
    REPLACED,
    commit_files,
    hub_errors,
    is_model_file,
    list_folder_files,
    make_repository,
    matches_root,
)
from drdecr.trainers.adapters import check_base

PLACEHOLDER = "THIS_REPOSITORY_OR_FOLDER"
"""What a card says for the model's name until it has one."""


def push_folder(
    folder: str | Path,
    repository: str,
    private: bool = False,
    revision: str | None = None,
    tag: str | None = None,
    message: str = "Upload model",
) -> str:
    """Push a model's folder, with its code and its card, in one commit.

    A large file that has arrived in an earlier attempt is not sent again; where nothing has changed, nothing is committed.

    Args:
        folder: of a model or an adapter, or of a run with a `model` or, without one, an `adapter` folder in it.
        repository: `user/name`, or `name` for the user's own.
        private: make the repository private if it is new (default False).
        revision: branch that is pushed to, made if it is not there (default `main`).
        tag: name for the commit, that the repository must not have yet; default none.
        message: of the commit.

    Returns:
        The address of what was pushed.

    Raises:
        ValueError: if the folder is no whole model, the tag exists, or a public repository was to be private.
        HubError: if the Hub refuses or cannot be reached. The repository is then as it was.
    """
    files = model_files(folder)
    with hub_errors(repository):
        api = HfApi()
        repository = make_repository(api, repository, private)
        references = api.list_repo_refs(repository)
        if tag in {reference.name for reference in references.tags}:
            raise ValueError(f"{repository} has a tag {tag!r} already. Choose another, or delete that one.")
        if revision and revision not in {reference.name for reference in references.branches}:
            api.create_branch(repository, branch=revision)
        contents = {name: _content(path, repository) for name, path in files.items()}
        is_stale = matches_root(REPLACED if "config.json" in files else ())
        commit = commit_files(api, repository, contents, message, is_stale, revision=revision)
        if tag:
            api.create_tag(repository, tag=tag, revision=commit.oid)
    return f"{api.endpoint}/{repository}" + (f"/tree/{tag or revision}" if tag or revision else "")


def model_files(folder: str | Path) -> dict[str, Path]:
    """Return what is pushed of a folder, by its name in the repository: the model's own files (`MODEL_FILES`) alone.

    Raises:
        ValueError: if configuration, weights or code are missing, or one of the files is a link out of the folder.
    """
    root = Path(folder)
    root = next((root / name for name in ("model", "adapter") if (root / name).is_dir()), root)
    files = list_folder_files(root, is_model_file)
    if "adapter_config.json" in files and "config.json" not in files:
        check_base(json.loads(files["adapter_config.json"].read_text(encoding="utf-8"))["base_model_name_or_path"])
    missing = [] if {"config.json", "adapter_config.json"} & set(files) else ["config.json"]
    missing += [] if any(name.endswith(".safetensors") for name in files) else ["weights (*.safetensors)"]
    for name in sorted(name for name in files if fnmatch(name, "config*.json")):  # one of them names the code
        code = json.loads(files[name].read_text(encoding="utf-8")).get("auto_map", {})
        missing += sorted({f"{target.split('.')[0]}.py" for target in code.values()} - set(files))
    if missing:
        raise ValueError(
            f"{root}: expected a model's folder, missing {', '.join(missing)}. Give the folder of a finished run, or one "
            "that `save_pretrained` wrote."
        )
    return files


def _content(path: Path, repository: str) -> Path | bytes:
    """Return a file's path; of the card, its text with the repository's name in it."""
    if path.name != "README.md":
        return path
    return path.read_text(encoding="utf-8").replace(PLACEHOLDER, repository).encode()


METRIC_FOLDER = Path(str(files("drdecr.evaluation.recall_at_k_tokens")))
"""`evaluate.load(str(METRIC_FOLDER))` opens the metric, offline."""

FILES = ("recall_at_k_tokens.py", "xor_retrieve.py", "app.py", "requirements.txt", "README.md")


def push_metric(repo_id: str, token: str | None = None, private: bool = False) -> Any:
    """Push the metric's files to a Space in one commit.

    Args:
        repo_id: `user/recall_at_k_tokens`; the last part must be that name, by which `evaluate` finds the file.
        token: default: the one that is logged in.
        private: whether a new Space is private (default False).

    Returns:
        The commit.

    Raises:
        ValueError: for another name, or if a public Space was to be private.
        HubError: if the Hub refuses or cannot be reached.
    """
    if repo_id.split("/")[-1] != METRIC_FOLDER.name:
        raise ValueError(
            f"repo_id: expected user/{METRIC_FOLDER.name}, the name of the metric's file, got {repo_id!r}."
        )
    with hub_errors(repo_id, token):
        api = HfApi(token=token)
        repo_id = make_repository(api, repo_id, private, repo_type="space", space_sdk="gradio")
        contents: dict[str, Path | bytes] = {name: METRIC_FOLDER / name for name in FILES}
        return commit_files(api, repo_id, contents, "R@kt", repo_type="space")
