"""Push R@kt as a Space, from which `evaluate.load("user/recall_at_k_tokens")` opens it."""

from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from drdecr.data.hub_repositories import make_repository
from drdecr.modeling_drdecr.hub_errors_drdecr import explained

METRIC_FOLDER = Path(__file__).with_name("recall_at_k_tokens")
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
    with explained(repo_id, token):
        api = HfApi(token=token)
        repo_id = make_repository(api, repo_id, private, repo_type="space", space_sdk="gradio")
        return api.upload_folder(
            repo_id=repo_id,
            repo_type="space",
            folder_path=METRIC_FOLDER,
            allow_patterns=list(FILES),
            commit_message="R@kt",
        )
