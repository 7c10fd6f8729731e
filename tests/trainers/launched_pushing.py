"""What `torchrun` starts for test_pushing.py: a short training on the CPU in two processes that pushes.

Usage: launched_pushing.py FOLDER REPOSITORY; FOLDER holds `student`, `teacher` and `rows.json`, and takes the weights.
"""

import json
import sys
import time
from pathlib import Path

import torch
import torch.distributed
from transformers import TrainerCallback

from drdecr.data.collators import DistillationCollator
from drdecr.modeling_drdecr import DrDecrModel, DrDecrTeacher
from drdecr.trainers import DistillationArguments, DistillationTrainer


class Patience(TrainerCallback):
    """Waits for a push before the next step, so that none is left out because another is running."""

    trainer: DistillationTrainer

    def on_step_begin(self, args, state, control, **kwargs):
        self.trainer._finish_current_push()


def main() -> None:
    folder, repository = Path(sys.argv[1]), sys.argv[2]
    data = json.loads((folder / "rows.json").read_text())
    student = DrDecrModel.from_pretrained(folder / "student")
    args = DistillationArguments(
        output_dir=str(folder / "run"),
        use_cpu=True,
        disable_tqdm=True,
        save_steps=2,
        max_steps=4,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=1,
        relevance_weight=1.0,
        push_to_hub=True,
        hub_model_id=repository,
        hub_strategy="every_save",
    )
    if args.world_size != 2:
        raise RuntimeError(f"expected 2 processes, got {args.world_size}")
    teacher = DrDecrTeacher.from_pretrained(folder / "teacher")
    collate = DistillationCollator(student.processor, passages=data["passages"])
    trainer = DistillationTrainer(
        student, args, teacher=teacher, train_dataset=data["candidates"], data_collator=collate
    )
    patience = Patience()
    patience.trainer = trainer
    trainer.add_callback(patience)
    trainer.train()
    trainer.push_to_hub()
    if trainer.is_world_process_zero():
        torch.save(student.state_dict(), folder / "trained.pt")
    torch.distributed.barrier()
    time.sleep(0.2)  # gloo's threads hang at exit without it (pytorch #190489)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
