"""Search in many languages, rerank, adapt a student with LoRA, and push what was made; on the sample data.

    python examples/search_and_adapt.py                                      # without a Hub, from the offline encoder
    python examples/search_and_adapt.py --model user/student --repository user/student-adapter

The notebook beside it goes the same way. Minutes on two CPU cores with the offline encoder.
"""

import argparse
import re
from importlib.resources import files
from pathlib import Path

from datasets import Dataset
from peft import PeftModel

from drdecr import (
    AdaptersOffTeacher,
    DistillationCollator,
    DrDecrModel,
    ExactIndex,
    LoraSettings,
    RelevanceDistillationArguments,
    RelevanceDistillationTrainer,
    add_adapter,
    push_adapter,
)
from drdecr.data.offline.sample import read_sample_questions
from drdecr.data.schema import QuestionSet
from drdecr.evaluation.metrics import per_query_scores
from drdecr.hub.push import push_folder

ASKED = ["fi", "ja", "ru"]
"""One question of each of these languages is searched and shown."""


def read_arguments() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(description="Search, rerank, adapt a student with LoRA, and push what was made.")
    parser.add_argument("--model", help="folder or Hub name of a student; default: made from the offline encoder")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/example"), help="folder for what is made (%(default)s)"
    )
    parser.add_argument("--steps", type=int, default=8, help="steps of the fine-tuning (%(default)s)")
    parser.add_argument("--languages", nargs="+", default=ASKED, help="of the questions that it trains on (fi ja ru)")
    parser.add_argument("--repository", help="Hub name that is pushed to, as a private one; default: nothing is pushed")
    return parser.parse_args()


def main() -> None:
    """Go through all the steps."""
    args = read_arguments()
    name = args.model or make_offline_student(args.output / "student")

    # A student in three lines: load, read, score.
    model = DrDecrModel.from_pretrained(name)
    found = read_sample_questions("dev", languages=args.languages)
    index = index_of(model, found)

    show_search(model, index, found)
    show_reranking(model, found)
    before = measure(model, index, found)
    student = adapt(model, index, read_sample_questions("train", languages=args.languages), args.output, args.steps)
    after = measure(student, index_of(student, found), found)
    print(f"\nMRR@10 of {len(found.questions)} questions: {before:.3f} before, {after:.3f} after {args.steps} steps")

    student.save_pretrained(args.output / "adapter")
    print(f"adapter: {args.output / 'adapter'}")
    if args.repository:
        print(f"pushed to {share(student, name, args.output / 'merged', args.repository)}")


def make_offline_student(folder: Path) -> str:
    """Write what the demo starts from, an encoder with a language-neutral projection, and return its folder."""
    from drdecr.runs.model_loading import load_student
    from drdecr.runs.recipe import load_recipe

    if not folder.exists():
        load_student(load_recipe(str(files("drdecr.recipes") / "demo" / "teacher.yaml"))).save_pretrained(folder)
    return str(folder)


def index_of(model: DrDecrModel | PeftModel, found: QuestionSet) -> ExactIndex:
    """Encode the passages, all 160 of the sample."""
    return ExactIndex(list(found.passages), model.encode_documents(list(found.passages.values())))


def show_search(model: DrDecrModel, index: ExactIndex, found: QuestionSet) -> None:
    """Ask one question in each language, and print the best English passage."""
    by_language = {row["language"]: row for row in found.questions}
    questions = [row["query"] for row in by_language.values()]
    hits = index.search(model.encode_queries(questions), top_k=1)
    for question, ids, scores in zip(questions, hits.document_ids, hits.scores, strict=True):
        print(f"{question}\n  {scores[0]:.2f}  {found.passages[ids[0]][:80]}")


def show_reranking(model: DrDecrModel, found: QuestionSet) -> None:
    """Order candidates that something else has found: here the passages with most words of the English question."""
    row = found.questions[0]
    words = words_of(row["english"])
    candidates = sorted(found.passages, key=lambda name: -len(words & words_of(found.passages[name])))[:5]
    passages = model.encode_documents([found.passages[name] for name in candidates])
    scores = model.score(model.encode_queries([row["query"]]), passages)[0]  # (candidates,)
    print(f"\nreranked for {row['query']}")
    for place in scores.argsort(descending=True).tolist():
        print(f"  {scores[place]:.2f}  was {place + 1}: {found.passages[candidates[place]][:70]}")


def words_of(text: str) -> set[str]:
    """Return a text's words of four letters and more."""
    return set(re.findall(r"\w{4,}", text.lower()))


def measure(model: DrDecrModel | PeftModel, index: ExactIndex, found: QuestionSet) -> float:
    """Return the mean reciprocal rank of the answer among the first ten passages."""
    run = index.search(model.encode_queries(found.questions["query"])).as_run(found.questions["query_id"])
    answers = {row["query_id"]: dict.fromkeys(row["document_ids"], 1) for row in found.questions}
    scores = per_query_scores(run, answers, ["RR@10"])["RR@10"]
    return sum(scores.values()) / len(scores)


def adapt(model: DrDecrModel, index: ExactIndex, found: QuestionSet, output: Path, steps: int) -> PeftModel:
    """Train an adapter to score a question as the backbone below it scores the question in English."""
    english = index.search(model.encode_queries(found.questions["english"]), top_k=8)
    texts = found.questions.select_columns(["query", "english"]).to_list()
    rows = [{**row, "document_ids": ids} for row, ids in zip(texts, english.document_ids, strict=True)]
    student = add_adapter(model, LoraSettings(rank=8))
    settings = RelevanceDistillationArguments(
        output_dir=str(output / "training"),
        max_steps=steps,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=1,
        learning_rate=2e-4,
        score_scale=32,  # questions of all lengths on one scale
        save_strategy="no",
        logging_steps=4,
        report_to="none",
    )
    trainer = RelevanceDistillationTrainer(
        student,
        settings,
        teacher=AdaptersOffTeacher(student),
        train_dataset=Dataset.from_list(rows),
        data_collator=DistillationCollator(student.processor, passages=dict(found.passages)),
    )
    trainer.train()
    return student


def share(student: PeftModel, base: str, merged: Path, repository: str) -> str:
    """Push the adapter where its base is on the Hub; else, since nobody could open it, both in one model."""
    if not Path(base).is_dir():
        return str(push_adapter(student, repository, base=base, private=True))
    student.merge_and_unload().save_pretrained(merged)
    return push_folder(merged, repository, private=True)


if __name__ == "__main__":
    main()
