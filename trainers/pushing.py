"""What a Trainer's pushes lack: the modelling code and the processor beside the weights, and a card that is true."""

import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

TRAINING_STATE = ("optimizer", "scheduler", "scaler", "rng_state", "trainer_state.json", "training_args.bin")
"""How the names of files begin that serve to resume a training, and nothing else."""

LEFT_OUT = (".safetensors", ".bin", ".pt", ".pth", ".md")
"""Weights, which the Trainer copies itself, pickles, and a card, which is written anew."""


def copy_what_loads(checkpoint: str | Path, folder: str | Path) -> None:
    """Copy into the folder that the Trainer pushes what it does not take of a checkpoint itself.

    It takes weights and `config.json`, which names code that is then not there. Beside that code stand the processor and
    what other libraries read: `modules.json`, `artifact.metadata`, and `1_Dense/`, with weights of its own.

    Args:
        checkpoint: a checkpoint's folder.
        folder: the Trainer's `output_dir`.
    """
    for path in Path(checkpoint).iterdir():
        if path.is_dir() and any((path / name).exists() for name in ("config.json", "adapter_config.json")):
            shutil.copytree(path, Path(folder) / path.name, dirs_exist_ok=True)
        elif path.is_file() and path.suffix not in LEFT_OUT and not path.name.startswith(TRAINING_STATE):
            shutil.copyfile(path, Path(folder) / path.name)


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
