"""Processed sets as a dataset of the Hub: parquet files by configuration and split, beside a card that names them."""

import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from datasets import Dataset
from huggingface_hub import DatasetCard, DatasetCardData, HfApi
from tqdm.auto import tqdm

from drdecr.modeling_drdecr.hub_drdecr import commit_files, hub_errors, list_folder_files, make_repository

from .files import SUMS, write_sums
from .provenance import redact_secrets

Configs = Mapping[str, Mapping[str, Dataset]]
"""`{configuration: {split: rows}}`."""

DATASET_FILES = ("README.md", "recipe.yaml", "facts.json", "provenance.json", "plan.json", SUMS)
"""Files of a data set's folder that go to the Hub beside its rows and tokens."""

SHARD_BYTES = 400 * 2**20
"""A file of the Hub's data viewer is at most about this large."""


def write_dataset(
    folder: Path,
    configs: Configs,
    body: str,
    metadata: Mapping[str, Any] | None = None,
    recipe: str | None = None,
    facts: Mapping[str, Any] | None = None,
    folders: Mapping[str, Path] | None = None,
) -> None:
    """Write a folder that `load_dataset(folder, configuration)` opens, whole or not at all.

    Args:
        folder: must not be there yet.
        configs: the rows; a split without rows is left out.
        body: text of the card, below its metadata.
        metadata: of the card (`language`, `license`, `tags` ...).
        recipe: text of the recipe that made the sets, kept as `recipe.yaml`.
        facts: what made the sets, and what was counted, kept as `facts.json`.
        folders: shards that go along, by their place in the folder: linked, or copied to another disk.

    Raises:
        ValueError: if the folder is there, or there is nothing to write.
    """
    if folder.exists():
        raise ValueError(f"{folder} exists. Choose another folder, or delete it: nothing is overwritten.")
    filled = {name: {split: rows for split, rows in splits.items() if len(rows)} for name, splits in configs.items()}
    filled = {name: splits for name, splits in filled.items() if splits}
    if not filled:
        raise ValueError("Expected sets with rows to export, got none. Look at the recipe's `data` and `validation`.")
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for name, splits in tqdm(filled.items(), desc="writing", unit="configuration", disable=None):
        for split, rows in splits.items():
            _write_split(rows, unfinished / name, split)
    data = DatasetCardData(
        **dict(metadata or {}), configs=[_config_of(name, splits) for name, splits in filled.items()]
    )
    card = DatasetCard(f"---\n{data.to_yaml()}\n---\n\n{body}")
    (unfinished / "README.md").write_text(redact_secrets(str(card)), encoding="utf-8")
    if recipe is not None:
        (unfinished / "recipe.yaml").write_text(redact_secrets(recipe), encoding="utf-8")
    if facts is not None:
        text = redact_secrets(json.dumps(facts, indent=1, ensure_ascii=False)) + "\n"
        (unfinished / "facts.json").write_text(text, encoding="utf-8")
    for name, source in (folders or {}).items():
        shutil.copytree(
            source, unfinished / name, copy_function=_link_or_copy, ignore=shutil.ignore_patterns("*.sha256")
        )
    write_sums(unfinished)
    unfinished.rename(folder)


def is_dataset(folder: Path) -> bool:
    """Tell whether a folder holds a dataset: a card and parquet files."""
    return (folder / "README.md").exists() and next(folder.rglob("*.parquet"), None) is not None


def push_dataset(folder: Path, repo_id: str, private: bool = False, token: str | None = None) -> str:
    """Push such a folder in one commit: what is read is the old set or the new one, never half of each.

    A file that an interrupted push has sent is not sent again; parquet files and shards of an earlier push that are no
    longer there are deleted.

    Args:
        folder: written by `write_dataset`.
        repo_id: `user/name` of the dataset; made if it is not there.
        private: whether a new one is private (default False).
        token: default: the one that is logged in.

    Returns:
        The commit's hash: the `revision` for a recipe that is to be repeatable.

    Raises:
        ValueError: if the folder holds no dataset, or a public one was to be private.
        HubError: if the Hub refuses or cannot be reached, or another has committed meanwhile. The dataset is then as it was.
    """
    files = list_folder_files(folder, is_dataset_file) if (folder / "README.md").exists() else {}
    if not any(name.endswith(".parquet") for name in files):
        raise ValueError(f"{folder}: expected an exported dataset, with README.md and parquet files. Export it first.")
    with hub_errors(repo_id, token):
        api = HfApi(token=token)
        repo_id = make_repository(api, repo_id, private, repo_type="dataset")
        # Parquet files and shards of an earlier push would be read with the new ones.
        commit = commit_files(
            api,
            repo_id,
            files,
            "Upload processed sets",
            lambda name: name.endswith((".parquet", ".safetensors", SUMS)),
            repo_type="dataset",
        )
        return str(commit.oid)


def is_dataset_file(name: PurePosixPath) -> bool:
    """Whether a file of a data set's folder goes to the Hub: rows, tokens, checksums, card and how they were made."""
    is_whole = not any(part.startswith(".") for part in name.parts)
    return is_whole and (name.suffix in (".parquet", ".safetensors") or name.name in DATASET_FILES)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one that knows no links
        shutil.copy2(source, target)


def _write_split(rows: Dataset, folder: Path, split: str) -> None:
    folder.mkdir(exist_ok=True)
    rows = rows.flatten_indices() if rows._indices is not None else rows  # a selection counts the bytes of all rows
    num_shards = min(len(rows), max(1, math.ceil(rows.data.nbytes / SHARD_BYTES)))
    for index in range(num_shards):
        shard = rows.shard(num_shards, index, contiguous=True)
        shard.to_parquet(str(folder / f"{split}-{index:05d}-of-{num_shards:05d}.parquet"))


def _config_of(name: str, splits: Mapping[str, Dataset]) -> dict[str, Any]:
    return {
        "config_name": name,
        "data_files": [{"split": split, "path": f"{name}/{split}-*.parquet"} for split in splits],
    }
