"""Repositories on the Hub: making one without publishing what should stay private, and what a push takes out or leaves here."""

from typing import Any

from huggingface_hub import HfApi

PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl")
"""They can do harm to whoever opens them."""

NOT_PUSHED = (".*", "_*", "*.pyc", *PICKLES, "trainer_state.json", "checkpoint-*")
"""What never goes to the Hub with a model: pickles, and what only serves to resume a training."""

REPLACED = ("adapter_*", "model*.safetensors", "model.safetensors.index.json", "*_drdecr.py", *PICKLES)
"""What a push of a model takes out of a repository's root where it brings none of that name: what another model, or another
version of this package, left there would be loaded with ours, or is a pickle."""


def make_repository(api: HfApi, repository: str, private: bool = False, **kwargs: Any) -> str:
    """Make a repository if there is none of that name.

    Args:
        api: of who is logged in.
        repository: `user/name`, or `name` for the user's own.
        private: make a new one private (default False).
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
