"""What `torchrun` starts for test_launch.py: short trainings on the CPU, in one process, in two or in four.

Usage: launched_training.py FOLDER PROCESSES; FOLDER holds `student`, `teacher` and `rows.json`, and takes the results.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from peft import PeftModel
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from drdecr.data.collators import DistillationCollator
from drdecr.data.mixture import MixedSet
from drdecr.modeling_drdecr import DrDecrModel, DrDecrTeacher
from drdecr.trainers import (
    AdaptersOffTeacher,
    DistillationArguments,
    DistillationTrainer,
    LoraSettings,
    add_adapter,
    encoding,
)

ROWS_PER_PROCESS, STEPS = 4, 3
POOLED = {"in_batch_weight": 0.5, "relevance_over": "batch", "gather_across_devices": True}
MIXTURE_SEED = 8  # draws batches of candidates and of parallel rows in turn, so the processes meet different sets


def add_moved_adapter(student: DrDecrModel) -> PeftModel:
    """Add an adapter with weights unlike its start, so that the backbone below, which teaches, reads otherwise."""
    torch.manual_seed(1)
    adapted = add_adapter(student, LoraSettings(rank=2, alpha=2, dropout=0.0))
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.3)
    return adapted


def train(folder: Path, rows: Any, passages: dict[str, str], processes: int, name: str, **settings: Any) -> None:
    student: Any = DrDecrModel.from_pretrained(folder / "student")
    for module in student.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    defaults = {"relevance_weight": 1.0, "token_weight": 1.0, "contrastive_weight": 0.5}
    args = DistillationArguments(
        output_dir=str(folder / name),
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
        optim="sgd",
        learning_rate=0.1,
        max_steps=STEPS,
        logging_steps=1,
        **{**defaults, **settings},
    )
    if args.world_size != processes:
        raise RuntimeError(f"expected {processes} processes, got {args.world_size}")
    teacher: Any = DrDecrTeacher.from_pretrained(folder / "teacher")
    if name == "adapter":
        student = add_moved_adapter(student)
        teacher = AdaptersOffTeacher(student)
    start = {key: weight.clone() for key, weight in student.state_dict().items()}
    collate = DistillationCollator(student.processor, passages=passages)
    trainer = DistillationTrainer(student, args, teacher=teacher, train_dataset=rows, data_collator=collate)
    trainer.train()
    wrapped = isinstance(trainer.model_wrapped, DistributedDataParallel), isinstance(trainer.teacher, type(teacher))
    if wrapped != (processes > 1, True):
        raise RuntimeError(f"expected a student inside DDP and a teacher outside, got {wrapped}")
    result = {"start": start, "weights": student.state_dict(), "log": trainer.state.log_history}
    torch.save(result, folder / f"{name}-{processes}-{args.process_index}.pt")


def main() -> None:
    folder, processes = Path(sys.argv[1]), int(sys.argv[2])
    encoding.PASS_COST = 1  # these texts are so short that no second forward pass would pay
    data = json.loads((folder / "rows.json").read_text())
    gathered = {
        "per_device_train_batch_size": 2 * ROWS_PER_PROCESS // processes,
        "gradient_accumulation_steps": 2,
        **POOLED,
    }
    train(folder, data["candidates"], data["passages"], processes, "gathered", **gathered)
    train(folder, data["candidates"], data["passages"], processes, "cached", encode_mini_batch_size=2, **gathered)
    plain = {"per_device_train_batch_size": 2 * ROWS_PER_PROCESS // processes, "gradient_accumulation_steps": 1}
    train(folder, data["candidates"], data["passages"], processes, "plain", **plain)
    train(folder, data["candidates"], data["passages"], processes, "adapter", **plain)
    if processes <= 2:
        train_on_a_mixture(folder, data, processes)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        time.sleep(0.2)  # gloo's threads hang at exit without it (pytorch #190489)
        torch.distributed.destroy_process_group()


def train_on_a_mixture(folder: Path, data: Any, processes: int) -> None:
    """Train on a mixture whose sets two processes meet in different order; one accumulates the batches of both."""
    # One process reads questions and passages, while the other reads questions alone, and gathers all the same.
    sets = {"candidates": data["candidates"], "parallel": data["parallel"]}
    mixture = MixedSet(sets, ROWS_PER_PROCESS, num_batches=2 * STEPS, seed=MIXTURE_SEED)
    kinds = ["document_ids" in mixture[batch * ROWS_PER_PROCESS] for batch in range(2 * STEPS)]
    if kinds != [True, False, True, False, False, True]:
        raise RuntimeError(f"expected sets that differ within each step, got {kinds}")
    mixed = {"per_device_train_batch_size": ROWS_PER_PROCESS, "gradient_accumulation_steps": 2 // processes}
    train(folder, mixture, data["passages"], processes, "mixed", **mixed, **POOLED)


if __name__ == "__main__":
    main()
