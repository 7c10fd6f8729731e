"""How much memory a training takes: the whole student or an adapter, a teacher of its own or the backbone.

    python benchmarks/adapter_memory.py [--hidden-size 384 --layers 12 --vocabulary 250002 --batch 8 --tokens 32]

Each way runs two steps of token distillation on random ids in a process of its own, on the CPU, with AdamW and the word
embeddings frozen; the peak is what the operating system says, less what the process had before it made the model.
"""

import argparse
import resource
import subprocess
import sys
import tempfile

WAYS = {
    "whole student, teacher of its own": ("whole", "separate"),
    "adapter, teacher of its own": ("adapter", "separate"),
    "adapter, backbone as teacher": ("adapter", "backbone"),
}


def peak_megabytes() -> float:
    """Return the largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(arguments: argparse.Namespace) -> None:
    """Train two steps in this process and print the peak."""
    import torch
    from transformers import XLMRobertaConfig

    from drdecr.modeling_drdecr import DrDecrConfig, DrDecrModel, DrDecrTeacher
    from drdecr.trainers import AdaptersOffTeacher, RepresentationDistillationTrainer, add_adapter

    before = peak_megabytes()
    encoder = XLMRobertaConfig(
        vocab_size=arguments.vocabulary,
        hidden_size=arguments.hidden_size,
        num_hidden_layers=arguments.layers,
        num_attention_heads=arguments.hidden_size // 32,
        intermediate_size=4 * arguments.hidden_size,
    )
    config = DrDecrConfig(encoder_config=encoder, embedding_dim=128)
    model = DrDecrModel(config)
    teacher = DrDecrTeacher(config) if arguments.teacher == "separate" else None
    if arguments.train == "adapter":
        model = add_adapter(model)
        teacher = teacher or AdaptersOffTeacher(model)

    def batch(rows: list[dict[str, int]]) -> dict[str, object]:
        shape = (len(rows), arguments.tokens)
        every = torch.ones(shape, dtype=torch.bool)
        masks = {"attention_mask": every, "scoring_mask": every, "text_mask": every}
        return {side: {"input_ids": torch.randint(5, 1000, shape), **masks} for side in ("query", "teacher_query")}

    with tempfile.TemporaryDirectory() as folder:
        settings = {"per_device_train_batch_size": arguments.batch, "gradient_accumulation_steps": 1, "max_steps": 2}
        args = RepresentationDistillationTrainer.arguments_class(
            output_dir=folder,
            use_cpu=True,
            disable_tqdm=True,
            save_strategy="no",
            logging_steps=100,
            freeze_word_embeddings=True,
            anchor_weight=0.0,
            **settings,
        )
        rows = [{"row": number} for number in range(2 * arguments.batch)]
        RepresentationDistillationTrainer(model, args, teacher=teacher, train_dataset=rows, data_collator=batch).train()
    print(f"peak {peak_megabytes() - before:.0f} MB")


def main() -> None:
    """Measure every way, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("hidden-size", 384), ("layers", 12), ("vocabulary", 250002), ("batch", 8), ("tokens", 32)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--train", choices=("whole", "adapter"))
    parser.add_argument("--teacher", choices=("separate", "backbone"))
    arguments = parser.parse_args()
    if arguments.train:
        measure(arguments)
        return
    for way, (train, teacher) in WAYS.items():
        command = [sys.executable, __file__, *sys.argv[1:], "--train", train, "--teacher", teacher]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        print(f"{way}: {done.stdout.strip().splitlines()[-1]}", flush=True)


if __name__ == "__main__":
    main()
