"""What `torchrun` starts for test_sharding.py: two processes train a model that FSDP2 shares out, on the CPU over gloo.

Usage: launched_sharding.py FOLDER 2; FOLDER holds `student`, `teacher` and `rows.json`, and takes for each of CASES the model
that was shared out, `NAME`, and `NAME-whole`, which one process trains on all rows in float32; and `shared.json`, the names of
the modules that were shared out each by itself.

Accelerate shares nothing out on a CPU by itself, so the steps are made here: the trainer's loss on what Accelerate's own
function makes of the model, by the settings that `accelerate launch` leaves in the environment.
"""

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule

from drdecr.data.collators import DistillationCollator
from drdecr.data.embeddings.cache import TokenCache
from drdecr.modeling_drdecr import DrDecrModel, DrDecrTeacher
from drdecr.trainers import DistillationArguments, DistillationTrainer
from drdecr.trainers.checks import layer_classes

ROWS, STEPS, RATE = 8, 3, 0.1
TERMS: dict[str, Any] = {
    "relevance_weight": 1.0,
    "relevance_over": "batch",
    "in_batch_weight": 0.5,
    "token_weight": 1.0,
}
CASES: dict[str, dict[str, Any]] = {
    "float32": {"precision": "no", "cached": False},
    "bfloat16": {"precision": "bf16", "cached": True},
}


def shared_out(model: DrDecrModel, precision: str) -> Any:
    """Share a model out as `Accelerator.prepare` does."""
    plugin = FullyShardedDataParallelPlugin(transformer_cls_names_to_wrap=layer_classes(model))
    if precision != "no":
        plugin.set_mixed_precision(precision)
    state, main = SimpleNamespace(fsdp_plugin=plugin), torch.distributed.get_rank() == 0
    accelerator = SimpleNamespace(
        state=state, mixed_precision=precision, is_main_process=main, device=torch.device("cpu")
    )
    return fsdp2_prepare_model(accelerator, model)


def train(folder: Path, processes: int, precision: str, cached: bool) -> Any:
    """Take a few steps of plain gradient descent, each process on its part of the rows."""
    data = json.loads((folder / "rows.json").read_text())
    student: Any = DrDecrModel.from_pretrained(folder / "student").train()
    for module in student.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    options = {"gather_across_devices": processes > 1, "encode_mini_batch_size": 3}
    args = DistillationArguments(output_dir=str(folder / "run"), use_cpu=True, max_steps=1, **TERMS, **options)
    teacher = DrDecrTeacher.from_pretrained(folder / "teacher")
    trainer = DistillationTrainer(student, args, teacher=teacher)
    if processes > 1:
        student = shared_out(student, precision)
        trainer.is_fsdp_enabled = True
    cache = TokenCache.of_documents(teacher, data["passages"]) if cached else None
    collate = DistillationCollator(student.processor, passages=data["passages"], document_cache=cache)
    size = ROWS // processes
    for step in range(STEPS):
        start = step * ROWS + (torch.distributed.get_rank() * size if processes > 1 else 0)
        trainer.compute_loss(student, collate(data["candidates"][start : start + size])).backward()
        for parameter in student.parameters():
            if parameter.grad is not None:
                parameter.data.add_(parameter.grad, alpha=-RATE)
                parameter.grad = None
    return student


def main() -> None:
    folder = Path(sys.argv[1])
    for name, case in CASES.items():
        whole, student = (train(folder, processes, **case) for processes in (1, 2))
        if torch.distributed.get_world_size() != 2:
            raise RuntimeError(f"expected 2 processes, got {torch.distributed.get_world_size()}")
        weights = get_model_state_dict(student, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        if torch.distributed.get_rank() == 0:
            whole.save_pretrained(folder / f"{name}-whole")
            student.save_pretrained(folder / name, state_dict=weights)
            shared = [path for path, module in student.named_modules() if isinstance(module, FSDPModule)]
            (folder / "shared.json").write_text(json.dumps(shared))
    torch.distributed.barrier()
    time.sleep(0.2)  # gloo's threads hang at exit without it (pytorch #190489)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
