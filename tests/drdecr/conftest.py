"""A tiny encoder, question sets and recipes on disk: what the tests of runs share."""

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, Trainer

from drdecr.cli.main import main
from drdecr.runs.recipe import Recipe, load_recipe
from drdecr.runs.stage import run_stage

LETTERS = "bcdefghijklmnopq"
"""Passage and question i are about letter i; `z`, before a question, makes it one in another language."""


def jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def question_rows(letters: str) -> list[dict[str, Any]]:
    """One question a letter, in English and in "xx"."""
    return [
        {
            "query_id": f"{letter}-{code}",
            "query": query,
            "english": f"what is the city {letter}",
            "language": code,
            "document_ids": [f"p-{letter}"],
        }
        for letter in letters
        for code, query in (("xx", f"z {letter} z"), ("en", f"what is the city {letter}"))
    ]


@pytest.fixture
def bare_encoder(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> str:
    """The folder of a BERT with a tokenizer, as it comes from the Hub."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    folder = tmp_path / "bert"
    BertModel(BertConfig(vocab_size=64, max_position_embeddings=64, pad_token_id=1, **sizes)).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def data(tmp_path: Path) -> dict[str, dict[str, Any]]:
    """Entries of a recipe: questions to `train` on, of `dev` and `test`, and `parallel` text."""
    passages = [{"document_id": f"p-{letter}", "text": f"the city {letter} is in france."} for letter in LETTERS]
    collection = jsonl(tmp_path / "passages.jsonl", passages)
    parts = {"train": LETTERS[:10], "dev": LETTERS[10:13], "test": LETTERS[13:]}
    entries: dict[str, dict[str, Any]] = {
        name: {
            "format": "jsonl",
            "questions": jsonl(tmp_path / f"{name}.jsonl", question_rows(letters)),
            "passages": collection,
            "name": name,
        }
        for name, letters in parts.items()
    }
    pairs = "".join(f"z {letter} x\tthe king of {letter}\n" for letter in LETTERS)
    (tmp_path / "xx.tsv").write_text(pairs, encoding="utf-8")
    entries["parallel"] = {"format": "tsv", "path": str(tmp_path / "xx.tsv"), "languages": ["xx"]}
    return entries


@pytest.fixture
def write_recipe(tmp_path: Path, bare_encoder: str) -> Callable[..., Path]:
    """`write_recipe(name, stage=..., **keys)` writes a recipe of a few quick steps whose run is `runs/NAME`."""

    def write(name: str, **keys: Any) -> Path:
        content = {"output": str(tmp_path / "runs" / name), "model": bare_encoder, **keys}
        markers = {"query_marker": "[Q]", "document_marker": "[D]", "query_length": 12, "document_length": 24}
        if content["model"] == bare_encoder:  # a checkpoint has them
            content = {"embedding_dim": 8, "projection": "random", "processor": markers, **content}
        quick = {"max_steps": 3, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "logging_steps": 1}
        if content["stage"] != "initialise":
            content["training"] = {**quick, "learning_rate": 1e-3, **content.get("training", {})}
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return path

    return write


@pytest.fixture
def recipe_of(write_recipe: Callable[..., Path]) -> Callable[..., Recipe]:
    """The same, read."""
    return lambda name, **keys: load_recipe(write_recipe(name, **keys))


@pytest.fixture
def start(recipe_of: Callable[..., Recipe]) -> str:
    """An untrained student with its projection: `stage:start` for the runs beside it."""
    run_stage(recipe_of("start", stage="initialise"))
    return "stage:start"


@pytest.fixture
def call(monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """`call(*words)` runs the command line as the console script does: exit code, output, errors."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["drdecr", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        return (stopped.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def kill_in_step(monkeypatch) -> Callable[[int], list[int]]:
    """`kill_in_step(3)`: from now on the third step raises `RuntimeError("killed")`; returns an entry for each begun."""

    def arm(number: int) -> list[int]:
        step, begun = Trainer.training_step, []

        def dying(*arguments: Any, **keywords: Any) -> torch.Tensor:
            begun.append(len(begun) + 1)
            if len(begun) == number:
                raise RuntimeError("killed")
            return step(*arguments, **keywords)

        monkeypatch.setattr(Trainer, "training_step", dying)
        return begun

    return arm
