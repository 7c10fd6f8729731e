"""Distil a student from a teacher's scores, with every setting on the command line.

    accelerate launch examples/train_relevance.py --model NAME --teacher NAME --output_dir run --relevance_over batch

Rows are `query`, `english` and the texts of candidates: `positive`, `negative_1`, `negative_2` and so on, or `documents`.
"""

from dataclasses import dataclass, field
from pathlib import Path

from datasets import load_dataset
from peft import LoraConfig
from transformers import HfArgumentParser

from drdecr import RelevanceDistillationArguments, RelevanceDistillationTrainer
from drdecr.data.offline.sample import read_sample_questions


@dataclass
class ScriptArguments:
    """What is trained on what."""

    model: str = field(metadata={"help": "Student: a folder or a Hub name."})
    teacher: str = field(metadata={"help": "Teacher: a folder or a Hub name."})
    dataset: str | None = field(default=None, metadata={"help": "JSON Lines or a Hub name. Default: the sample data."})
    dataset_split: str = field(default="train", metadata={"help": "Split of a dataset on the Hub."})
    lora_rank: int = field(default=0, metadata={"help": "Train an adapter of this rank. Default: the whole student."})


def main() -> None:
    """Train, and save the student in the output folder."""
    parser = HfArgumentParser((ScriptArguments, RelevanceDistillationArguments))
    script, args = parser.parse_args_into_dataclasses()
    passages = None
    if script.dataset is None:
        sample = read_sample_questions()
        rows, passages = sample.questions, sample.passages
    elif Path(script.dataset).is_file():
        rows = load_dataset("json", data_files=script.dataset, split="train")
    else:
        rows = load_dataset(script.dataset, split=script.dataset_split)
    trainer = RelevanceDistillationTrainer(
        model=script.model,
        args=args,
        teacher=script.teacher,
        train_dataset=rows,
        passages=passages,
        peft_config=LoraConfig(r=script.lora_rank) if script.lora_rank else None,
    )
    trainer.train()
    trainer.save_model()


if __name__ == "__main__":
    main()
