"""Make a repository on the Hub, or take the one that is there, without publishing what should stay private."""

from typing import Any

from huggingface_hub import HfApi


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
