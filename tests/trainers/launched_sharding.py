"""What `torchrun` starts for test_sharding.py: two processes train a model that FSDP2 shares out, on the CPU over gloo.

Usage: launched_sharding.py FOLDER 2; FOLDER holds `student`, `teacher` and `rows.json`, and takes two models: `sharded`, and
`whole`, which one process trains on all rows.

Accelerate shares nothing out on a CPU, so the steps are made here: the trainer's loss, torch's `fully_shard`.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard

from drdecr.data.collators import DistillationCollator
from drdecr.modeling_drdecr import DrDecrModel, DrDecrTeacher
from drdecr.trainers import DistillationArguments, DistillationTrainer

ROWS, STEPS, RATE = 8, 3, 0.1
TERMS: dict[str, Any] = {
    "relevance_weight": 1.0,
    "relevance_over": "batch",
    "in_batch_weight": 0.5,
    "token_weight": 1.0,
}


def train(folder: Path, rows: list[Any], passages: dict[str, str], processes: int) -> DrDecrModel:
    """Take a few steps of plain gradient descent, each process on its part of the rows."""
    student = DrDecrModel.from_pretrained(folder / "student").train()
    for module in student.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    options = {"gather_across_devices": processes > 1, "encode_mini_batch_size": 3}
    args = DistillationArguments(output_dir=str(folder / "run"), use_cpu=True, max_steps=1, **TERMS, **options)
    teacher = DrDecrTeacher.from_pretrained(folder / "teacher")
    trainer = DistillationTrainer(student, args, teacher=teacher)
    if processes > 1:
        for layer in student.encoder.encoder.layer:
            fully_shard(layer)
        fully_shard(student)
        trainer.is_fsdp_enabled = True
    collate = DistillationCollator(student.processor, passages=passages)
    size = ROWS // processes
    for step in range(STEPS):
        start = step * ROWS + (torch.distributed.get_rank() * size if processes > 1 else 0)
        trainer.compute_loss(student, collate(rows[start : start + size])).backward()
        for parameter in student.parameters():
            if parameter.grad is not None:
                parameter.data.add_(parameter.grad, alpha=-RATE)
                parameter.grad = None
    return student


def main() -> None:
    folder = Path(sys.argv[1])
    data = json.loads((folder / "rows.json").read_text())
    whole = train(folder, data["candidates"], data["passages"], processes=1)
    student = train(folder, data["candidates"], data["passages"], processes=2)
    if torch.distributed.get_world_size() != 2:
        raise RuntimeError(f"expected 2 processes, got {torch.distributed.get_world_size()}")
    weights = get_model_state_dict(student, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if torch.distributed.get_rank() == 0:
        whole.save_pretrained(folder / "whole")
        student.save_pretrained(folder / "sharded", state_dict=weights)
    torch.distributed.barrier()
    time.sleep(0.2)  # gloo's threads hang at exit without it (pytorch #190489)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
