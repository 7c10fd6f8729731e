"""The trainer: what moves and what does not, what is logged, and routes that must end in the same weights."""

import copy
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from drdecr.data.collators import DistillationCollator
from drdecr.data.embeddings.cache import TokenCache
from drdecr.data.mixture import MixedSet
from drdecr.modeling_drdecr import DrDecrModel, DrDecrProcessor, DrDecrTeacher, maxsim_candidates
from drdecr.trainers import (
    ContrastiveTrainer,
    DistillationTrainer,
    RelevanceDistillationTrainer,
    RepresentationDistillationTrainer,
)

Build = Callable[..., DistillationTrainer]
Rows = list[dict[str, Any]]

ALL_TERMS = {
    "relevance_weight": 1.0,
    "token_weight": 1.0,
    "anchor_weight": 1.0,
    "contrastive_weight": 0.5,
    "in_batch_weight": 0.5,
}
SCORE_FIGURES = {
    "student_score_spread",
    "teacher_score_spread",
    "teacher_relative_entropy",
    "top_candidate_agreement",
}
TOKEN_FIGURES = {"mean_matched_cosine", "share_unaligned_tokens"}

STAGES = [
    (ContrastiveTrainer, "candidate_rows", False, {"contrastive"}),
    (RepresentationDistillationTrainer, "parallel_rows", True, {"aligned_tokens", "english_anchor"} | TOKEN_FIGURES),
    (RelevanceDistillationTrainer, "candidate_rows", True, {"relevance_kl"} | SCORE_FIGURES),
]


def weights(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def moved(before: dict[str, Tensor], model: torch.nn.Module) -> set[str]:
    return {name for name, tensor in model.state_dict().items() if not torch.equal(before[name], tensor)}


def losses(trainer: DistillationTrainer, name: str = "loss") -> list[float]:
    return [line[name] for line in trainer.state.log_history if name in line]


def logged(trainer: DistillationTrainer) -> set[str]:
    return {name for line in trainer.state.log_history for name in line}


def assert_same_weights(first: torch.nn.Module, second: torch.nn.Module, tolerance: float = 0.0) -> None:
    for (name, one), other in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance, msg=lambda words, name=name: f"{name}: {words}")


@pytest.mark.parametrize(("trainer_class", "rows", "needs_teacher", "names"), STAGES)
def test_a_stage_moves_the_student_lowers_the_loss_and_leaves_the_teacher(
    trainer_class: type[DistillationTrainer],
    rows: str,
    needs_teacher: bool,
    names: set[str],
    still_model: DrDecrModel,
    teacher: DrDecrTeacher,
    collate: DistillationCollator,
    build: Build,
    request: pytest.FixtureRequest,
):
    before, teacher_before = weights(still_model), weights(teacher)
    one_batch = request.getfixturevalue(rows)[:8]
    given = {"teacher": teacher} if needs_teacher else {}
    trainer = build(trainer_class, still_model, one_batch, collate, max_steps=8, **given)
    trainer.train()
    # The bias of the keys shifts all scores of a query's attention alike, so it has no gradient.
    still = {name for name in before if name.endswith("key.bias")}
    assert moved(before, still_model) | still == set(before)
    assert moved(teacher_before, teacher) == set()
    assert not teacher.training
    assert losses(trainer)[-1] < 0.95 * losses(trainer)[0]
    assert names <= logged(trainer)
    assert not ((SCORE_FIGURES | TOKEN_FIGURES | {"relevance_kl", "contrastive"}) - names) & logged(trainer)


def test_frozen_word_embeddings_stay_and_the_rest_moves(
    tiny_model: DrDecrModel, candidate_rows: Rows, collate: DistillationCollator, build: Build
):
    before = weights(tiny_model)
    build(ContrastiveTrainer, tiny_model, candidate_rows, collate, freeze_word_embeddings=True).train()
    changed = moved(before, tiny_model)
    assert "bert.embeddings.word_embeddings.weight" not in changed
    assert {"linear.weight", "bert.embeddings.position_embeddings.weight"} <= changed


def test_the_projections_learning_rate_reaches_the_projection_alone(
    tiny_model: DrDecrModel, candidate_rows: Rows, collate: DistillationCollator, build: Build
):
    before = weights(tiny_model)
    settings = {"learning_rate": 0.0, "projection_learning_rate": 1e-2, "weight_decay": 0.1}
    trainer = build(ContrastiveTrainer, tiny_model, candidate_rows, collate, **settings)
    trainer.train()
    assert moved(before, tiny_model) == {"linear.weight"}
    groups = trainer.optimizer.param_groups
    assert sum(len(group["params"]) for group in groups) == len(list(tiny_model.parameters()))
    assert [group["weight_decay"] for group in groups if group["lr"] == 1e-2] == [0.1]


def test_the_logged_loss_is_the_weighted_sum_of_the_logged_terms(
    still_model: DrDecrModel, teacher: DrDecrTeacher, candidate_rows: Rows, collate: DistillationCollator, build: Build
):
    settings = {**ALL_TERMS, "anchor_weight": 0.0}
    trainer = build(DistillationTrainer, still_model, candidate_rows, collate, teacher=teacher, **settings)
    trainer.train()
    for line in trainer.state.log_history[:-1]:
        terms = {name: line[name] for name in trainer.args.term_weights}
        assert line["loss"] == pytest.approx(
            sum(trainer.args.term_weights[name] * terms[name] for name in terms), rel=1e-4
        )


@pytest.mark.parametrize(("scores", "words"), [([90.0, 0.0, 0.0], "saturated"), ([1.0, 1.0, 1.0], "flat")])
def test_a_teacher_that_says_little_is_warned_of(
    scores: list[float],
    words: str,
    tiny_model: DrDecrModel,
    candidate_rows: Rows,
    collate: DistillationCollator,
    build: Build,
    caplog: pytest.LogCaptureFixture,
):
    rows = [{**row, "teacher_scores": scores} for row in candidate_rows]
    build(RelevanceDistillationTrainer, tiny_model, rows, collate, max_steps=1).train()
    assert any(record.levelno == logging.WARNING and words in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(("trainer_class", "rows", "needs_teacher", "names"), STAGES)
def test_one_batch_of_eight_equals_two_accumulated_batches_of_four(
    trainer_class: type[DistillationTrainer],
    rows: str,
    needs_teacher: bool,
    names: set[str],
    still_model: DrDecrModel,
    teacher: DrDecrTeacher,
    collate: DistillationCollator,
    build: Build,
    request: pytest.FixtureRequest,
):
    given = {"teacher": teacher} if needs_teacher else {}
    # Not AdamW, which makes a whole step of a gradient that is nothing but rounding.
    given |= {"optim": "sgd", "learning_rate": 0.1}
    halves, whole = copy.deepcopy(still_model), still_model
    data = request.getfixturevalue(rows)
    build(trainer_class, whole, data, collate, **given).train()
    small = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    build(trainer_class, halves, data, collate, **small, **given).train()
    assert_same_weights(whole, halves, tolerance=1e-5)


@pytest.mark.parametrize("mixed", [False, True])
def test_a_resumed_run_ends_bit_for_bit_where_an_uninterrupted_one_does(
    mixed: bool,
    tiny_model: DrDecrModel,
    teacher: DrDecrTeacher,
    parallel_rows: Rows,
    candidate_rows: Rows,
    collate: DistillationCollator,
    build: Build,
    tmp_path: Path,
):
    rows: Any = MixedSet({"a": candidate_rows, "b": parallel_rows}, 4, num_batches=10) if mixed else candidate_rows
    settings = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": 5, **ALL_TERMS}
    settings |= {"teacher": teacher, "projection_learning_rate": 2e-3, "save_strategy": "steps", "save_steps": 2}
    resumed = copy.deepcopy(tiny_model)
    build(DistillationTrainer, tiny_model, rows, collate, **settings).train()  # dropout and shuffling included
    torch.manual_seed(99)
    trainer = build(DistillationTrainer, resumed, rows, collate, **settings)
    trainer.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert trainer.state.global_step == 5
    assert_same_weights(tiny_model, resumed)


def test_each_epoch_of_a_mixture_has_an_order_of_its_own_and_a_resumed_one_the_same(
    tiny_model: DrDecrModel, parallel_rows: Rows, candidate_rows: Rows, collate: DistillationCollator, build: Build
):
    rows = MixedSet({"a": candidate_rows, "b": parallel_rows}, 4, num_batches=12)
    seen: list[str] = []

    def watched(batch: Rows) -> dict[str, Any]:
        seen.extend(row["query"] for row in batch)
        return collate(batch)

    settings = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "num_train_epochs": 2}
    settings |= {"max_steps": -1, "contrastive_weight": 1.0, "token_weight": 1.0, "teacher": copy.deepcopy(tiny_model)}
    settings |= {"save_strategy": "steps", "save_steps": 8}
    trainer = build(DistillationTrainer, tiny_model, rows, watched, **settings)
    trainer.train()
    epochs = seen[:48], seen[48:]
    assert len(epochs[1]) == 48
    assert epochs[0] != epochs[1]
    seen.clear()
    trainer.train(resume_from_checkpoint=f"{trainer.args.output_dir}/checkpoint-8")
    assert seen[-32:] == epochs[1][-32:]


def test_the_terms_of_an_evaluation_are_means_over_rows_as_its_loss_is(
    still_model: DrDecrModel, teacher: DrDecrTeacher, parallel_rows: Rows, build: Build
):
    settings = {"token_weight": 0.5, "anchor_weight": 0.5, "per_device_eval_batch_size": 2, "teacher": teacher}
    trainer = build(DistillationTrainer, still_model, parallel_rows, eval_dataset=parallel_rows[:3], **settings)
    metrics = trainer.evaluate()
    (line,) = (line for line in trainer.state.log_history if "eval_loss" in line)
    expected = 0.5 * line["eval_aligned_tokens"] + 0.5 * line["eval_english_anchor"]
    assert metrics["eval_loss"] == pytest.approx(expected, rel=1e-5)


def test_the_checkpoint_that_validates_best_is_kept(
    tiny_model: DrDecrModel, candidate_rows: Rows, collate: DistillationCollator, build: Build, tmp_path: Path
):
    figures, seen = iter([0.2, 0.9, 0.1]), []

    def validate(model: DrDecrModel) -> dict[str, float]:
        seen.append(weights(model))
        return {"mrr": next(figures)}

    settings = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "mrr", "greater_is_better": True}
    trainer = build(ContrastiveTrainer, tiny_model, candidate_rows, collate, evaluator=validate, **settings, **best)
    trainer.train()
    assert losses(trainer, "eval_mrr") == [0.2, 0.9, 0.1]
    assert Path(trainer.state.best_model_checkpoint).name == "checkpoint-2"
    assert moved(seen[1], tiny_model) == set()
    assert moved(seen[2], tiny_model) != set()


def test_an_evaluator_of_sentence_transformers_chooses_by_its_primary_metric(
    tiny_model: DrDecrModel, candidate_rows: Rows, collate: DistillationCollator, build: Build
):
    class Evaluator:
        primary_metric = None
        figures = iter([0.2, 0.9, 0.1])

        def __call__(self, model: DrDecrModel) -> dict[str, float]:
            self.primary_metric = "dev_ndcg"  # theirs is known after the first call
            return {"dev_ndcg": next(self.figures), "dev_map": 0.0}

    settings = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    settings |= {"load_best_model_at_end": True, "evaluator": Evaluator()}
    trainer = build(ContrastiveTrainer, tiny_model, candidate_rows, collate, **settings)
    trainer.train()
    assert (trainer.state.best_metric, trainer.state.best_global_step) == (0.9, 2)


def test_metrics_are_computed_of_the_students_and_the_teachers_scores(
    still_model: DrDecrModel,
    teacher: DrDecrTeacher,
    candidate_rows: Rows,
    parallel_rows: Rows,
    build: Build,
    passages: Any,
):
    def compute(prediction: Any) -> dict[str, float]:
        student, target = prediction.predictions
        assert student.shape == target.shape == (6, 3)
        return {"agreement": float((student.argmax(1) == target.argmax(1)).mean()), "places": sum(prediction.label_ids)}

    rows = {"candidates": candidate_rows[:6], "parallel": parallel_rows[:6]}
    settings = {"teacher": teacher, "passages": passages, "compute_metrics": compute, "token_weight": 1.0}
    trainer = build(DistillationTrainer, still_model, rows, **settings, relevance_weight=1.0)
    metrics = trainer.evaluate(rows["candidates"])
    expected = 0.0
    for row in rows["candidates"]:
        documents = [passages[name] for name in row["document_ids"]]
        best = [
            model.score(model.encode_queries([row[column]]), model.encode_documents(documents)).argmax()
            for model, column in ((still_model, "query"), (teacher, "english"))
        ]
        expected += (best[0] == best[1]).item() / 6
    assert (metrics["eval_agreement"], metrics["eval_places"]) == (pytest.approx(expected), 0)
    with pytest.raises(ValueError, match=r"compute_metrics: expected rows with candidates.*`evaluator`"):
        trainer.evaluate(rows["parallel"])


def test_what_is_reported_to_a_tracker_has_every_term_by_name(
    still_model: DrDecrModel, teacher: DrDecrTeacher, parallel_rows: Rows, build: Build, monkeypatch: pytest.MonkeyPatch
):
    lines: list[dict[str, float]] = []

    class Tracker(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            lines.append(logs)

    monkeypatch.setitem(INTEGRATION_TO_CALLBACK, "stub", Tracker)
    settings = {"report_to": "stub", "teacher": teacher, "eval_dataset": {"dev": parallel_rows[:4]}}
    trainer = build(RepresentationDistillationTrainer, still_model, parallel_rows, **settings)
    trainer.train()
    trainer.evaluate()
    assert {"loss", "aligned_tokens", "english_anchor", "learning_rate"} | TOKEN_FIGURES <= set(lines[0])
    assert {"eval_dev_loss", "eval_dev_aligned_tokens", "eval_dev_english_anchor"} <= set(lines[-1])


def test_each_evaluation_set_is_logged_under_its_name_and_validation_comes_once(
    still_model: DrDecrModel, candidate_rows: Rows, collate: DistillationCollator, build: Build
):
    calls = []

    def validate(model: DrDecrModel) -> dict[str, float]:
        calls.append(model)
        return {"mrr": 0.5}

    sets = {"first": candidate_rows[:8], "second": candidate_rows[8:16]}
    trainer = build(ContrastiveTrainer, still_model, candidate_rows, collate, evaluator=validate, eval_dataset=sets)
    metrics = trainer.evaluate()
    assert len(calls) == 1
    assert metrics["eval_mrr"] == 0.5
    for name in sets:
        assert losses(trainer, f"eval_{name}_contrastive") == pytest.approx([metrics[f"eval_{name}_loss"]], rel=1e-5)
    assert metrics["eval_first_loss"] != metrics["eval_second_loss"]


@pytest.mark.parametrize("score_scale", [None, 20.0])
def test_a_cached_teacher_gives_the_loss_of_the_live_one(
    score_scale: float | None,
    still_model: DrDecrModel,
    teacher: DrDecrTeacher,
    candidate_rows: Rows,
    passages: dict[str, str],
    build: Build,
):
    teacher.load_state_dict({name: tensor * 1.5 for name, tensor in still_model.state_dict().items()})
    live = DistillationCollator(still_model.processor, passages=passages)
    cached = DistillationCollator(
        still_model.processor,
        passages=passages,
        query_cache=TokenCache.of_queries(teacher, [row["english"] for row in candidate_rows]),
        document_cache=TokenCache.of_documents(teacher, passages),
    )
    settings = {"relevance_weight": 1.0, "token_weight": 1.0, "score_scale": score_scale}
    trainer = build(DistillationTrainer, still_model, candidate_rows, live, teacher=teacher, **settings)
    batch, lookup = live(candidate_rows[:8]), cached(candidate_rows[:8])
    english = batch["teacher_query"]
    documents = teacher(**{name: tensor.flatten(0, 1) for name, tensor in batch["document"].items()}).embeddings
    scores = maxsim_candidates(
        teacher(**english).embeddings,
        documents.unflatten(0, (8, 3)),
        english["scoring_mask"],
        batch["document"]["scoring_mask"],
    )
    given = {"teacher_scores": scores, "teacher_query_tokens": english["scoring_mask"].sum(dim=1)}
    # The student learns to search the teacher's index, so live it must read passages as the teacher does.
    batch |= {
        "document_embeddings": documents.unflatten(0, (8, 3)),
        "document_scoring_mask": batch["document"]["scoring_mask"],
    }
    expected = trainer.compute_loss(still_model, batch).item()
    trainer.teacher = None  # nothing is asked of it
    for batch in (lookup | given, lookup):  # the scores as a column, or made of the caches
        assert trainer.compute_loss(still_model, batch).item() == pytest.approx(expected, abs=1e-3)
    assert expected > 0.01


def test_a_mixed_run_over_two_kinds_of_rows_logs_every_term(
    tiny_model: DrDecrModel,
    teacher: DrDecrTeacher,
    parallel_rows: Rows,
    candidate_rows: Rows,
    collate: DistillationCollator,
    build: Build,
):
    rows = MixedSet({"candidates": candidate_rows, "parallel": parallel_rows}, batch_size=8, num_batches=6)
    trainer = build(DistillationTrainer, tiny_model, rows, collate, teacher=teacher, max_steps=6, **ALL_TERMS)
    trainer.train()
    terms = {"relevance_kl", "aligned_tokens", "english_anchor", "contrastive", "in_batch_contrastive"}
    assert terms | SCORE_FIGURES | TOKEN_FIGURES <= logged(trainer)
    assert len(losses(trainer, "english_anchor")) == rows.batches_of("parallel", 8)
    assert len(losses(trainer, "relevance_kl")) == rows.batches_of("candidates", 8)


def test_no_known_answer_of_a_question_is_its_negative_and_a_passage_counts_once(
    still_model: DrDecrModel, candidate_rows: Rows, passages: dict[str, str], build: Build
):
    texts = {**passages, "copy of p1": passages["p1"]}
    asked = [("where", "p1", "p2"), ("where", "p3", "p5"), ("what", "copy of p1", "p4"), ("who", "p6", "p2")]
    answers = {"where": {"p1", "p3"}, "what": {"p1"}, "who": {"p6", "p5"}}
    rows = [{"query": query, "document_ids": [one, other], "answers": []} for query, one, other in asked]
    rows[3]["answers"] = ["p5"]
    trainer = build(
        DistillationTrainer,
        still_model,
        rows,
        passages=texts,
        in_batch_weight=1.0,
        contrastive_temperature=0.5,
    )
    expected = 0.0
    for query, positive, _ in asked:
        own = positive.removeprefix("copy of ")
        columns = [own, *sorted({"p1", "p2", "p3", "p4", "p5", "p6"} - answers[query])]
        documents = still_model.encode_documents([texts[name] for name in columns])
        shares = still_model.score(still_model.encode_queries([query]), documents)[0].div(0.5).softmax(dim=0)
        expected -= math.log(shares[0].item()) / len(rows)
    batch = trainer.data_collator(rows)
    assert trainer.compute_loss(still_model, batch).item() == pytest.approx(expected, rel=1e-4)


def test_score_scale_makes_scores_means_over_query_tokens(
    still_model: DrDecrModel, candidate_rows: Rows, collate: DistillationCollator, build: Build
):
    rows = [{**row, "teacher_scores": [9.0, 6.0, 3.0], "teacher_query_tokens": 6} for row in candidate_rows[:4]]
    trainer = build(RelevanceDistillationTrainer, still_model, rows, collate, score_scale=20.0)
    expected = 0.0
    for row in rows:
        query = still_model.encode_queries([row["query"]])
        passages = still_model.encode_documents([collate.passages[name] for name in row["document_ids"]])
        student = still_model.score(query, passages)[0] * 20 / len(query[0])
        teacher = torch.tensor([30.0, 20.0, 10.0])
        student, teacher = (student / 2).softmax(dim=0), (teacher / 2).softmax(dim=0)
        expected += 4 * (teacher * (teacher / student).log()).sum().item() / 4
    assert trainer.compute_loss(still_model, collate(rows)).item() == pytest.approx(expected, rel=1e-4)


def test_special_tokens_are_aligned_only_where_asked_for(
    still_model: DrDecrModel, teacher: DrDecrTeacher, collate: DistillationCollator, build: Build
):
    rows = [{"query": "the king of france", "english": "paris"}]
    shares = []
    for align_special_tokens in (False, True):
        settings = {"token_weight": 1.0, "align_special_tokens": align_special_tokens, "max_steps": 1}
        trainer = build(DistillationTrainer, still_model, rows, collate, teacher=teacher, **settings)
        trainer.train()
        shares += losses(trainer, "share_unaligned_tokens")
    # 4 words against 1; with <s>, [Q] and </s> 7 tokens against 4
    assert shares == pytest.approx([3 / 4, 3 / 7])


def test_a_soft_alignment_leaves_no_word_without_a_partner(
    still_model: DrDecrModel, teacher: DrDecrTeacher, collate: DistillationCollator, build: Build
):
    # One English word is every student word's partner with weight 1, so the loss is the mean distance to it.
    rows = [{"query": "the king of france", "english": "paris"}]
    settings = {"token_weight": 1.0, "alignment": "sinkhorn", "max_steps": 1}
    trainer = build(DistillationTrainer, still_model, rows, collate, teacher=teacher, **settings)
    batch = collate(rows)
    words, word = (
        model(**batch[side]).embeddings[batch[side]["text_mask"]]
        for model, side in ((still_model, "query"), (teacher, "teacher_query"))
    )
    assert (len(words), len(word)) == (4, 1)
    assert trainer.compute_loss(still_model, batch).item() == pytest.approx((words - word).square().mean().item(), 1e-5)
    trainer.train()
    assert losses(trainer, "share_unaligned_tokens") == [0.0]
    cosine = torch.cosine_similarity(words, word, dim=-1).mean().item()
    assert losses(trainer, "mean_matched_cosine") == pytest.approx([cosine], abs=1e-5)


def test_a_teacher_reads_passages_with_its_own_processor(
    still_model: DrDecrModel, teacher: DrDecrTeacher, candidate_rows: Rows, passages: dict[str, str], build: Build
):
    teacher.processor = DrDecrProcessor(still_model.processor.tokenizer, query_length=8, document_length=6)
    collate = DistillationCollator(still_model.processor, passages=passages, teacher_processor=teacher.processor)
    trainer = build(RelevanceDistillationTrainer, still_model, candidate_rows, collate, teacher=teacher)
    batch = collate(candidate_rows[:4])
    found = trainer._teacher_scores(batch)
    query, mask = trainer._encode(still_model, batch["query"]), batch["query"]["scoring_mask"]
    pool = trainer._pool(batch, *trainer._documents(still_model, batch, query.dtype))
    unscored = trainer._batch_scores(batch, query, mask, pool)[1]
    rows = [{**row, "teacher_scores": [0.0] * len(row["document_ids"])} for row in candidate_rows[:4]]
    torch.testing.assert_close(trainer._batch_scores(collate(rows), query, mask, pool)[1], unscored)
    ids = list(dict.fromkeys(name for row in rows for name in row["document_ids"]))
    documents = teacher.encode_documents([passages[name] for name in ids])
    english = teacher.encode_queries([row["english"] for row in rows])
    torch.testing.assert_close(unscored, teacher.score(english, documents))
    for scores, row in zip(found, candidate_rows[:4], strict=True):
        documents = teacher.encode_documents([passages[name] for name in row["document_ids"]])
        torch.testing.assert_close(scores, teacher.score(teacher.encode_queries([row["english"]]), documents)[0])


def test_a_teacher_keeps_its_precision_beside_a_student_in_bfloat16(
    still_model: DrDecrModel, teacher: DrDecrTeacher, collate: DistillationCollator, build: Build, parallel_rows: Rows
):
    expected = teacher.encode_queries([parallel_rows[0]["english"]])[0]
    trainer = build(RepresentationDistillationTrainer, still_model, parallel_rows, collate, teacher=teacher, bf16=True)
    batch = collate(parallel_rows[:1])
    read, mask = trainer._teacher_question(batch)
    torch.testing.assert_close(read[mask], expected)


def test_a_batch_that_serves_no_term_is_refused(
    tiny_model: DrDecrModel, teacher: DrDecrTeacher, collate: DistillationCollator, build: Build, parallel_rows: Rows
):
    trainer = build(RelevanceDistillationTrainer, tiny_model, parallel_rows, collate, teacher=teacher)
    with pytest.raises(ValueError, match="has nothing for the terms relevance_kl"):
        trainer.train()


def test_what_the_teacher_must_say_and_nobody_says_is_named(
    tiny_model: DrDecrModel, teacher: DrDecrTeacher, collate: DistillationCollator, build: Build, candidate_rows: Rows
):
    with pytest.raises(ValueError, match="relevance_kl: the batch does not carry what the teacher says"):
        build(RelevanceDistillationTrainer, tiny_model, candidate_rows, collate).train()
    without_english = [{"query": row["query"], "document_ids": row["document_ids"]} for row in candidate_rows]
    with pytest.raises(ValueError, match="or `teacher_scores` with `relevance_over: row`"):
        build(RelevanceDistillationTrainer, tiny_model, without_english, collate, teacher=teacher).train()
    scored = [{**row, "teacher_scores": [3.0, 2.0, 1.0]} for row in candidate_rows]
    with pytest.raises(ValueError, match="how many query tokens each teacher score sums over"):
        build(RelevanceDistillationTrainer, tiny_model, scored, collate, score_scale=20.0).train()


def test_a_checkpoint_opens_by_itself_with_its_processor_and_without_the_teacher(
    tiny_model: DrDecrModel,
    teacher: DrDecrTeacher,
    candidate_rows: Rows,
    collate: DistillationCollator,
    build: Build,
    tmp_path: Path,
):
    settings = {"teacher": teacher, "save_strategy": "steps", "save_steps": 2, "max_steps": 2}
    build(RelevanceDistillationTrainer, tiny_model, candidate_rows, collate, **settings).train()
    loaded = DrDecrModel.from_pretrained(tmp_path / "run" / "checkpoint-2")
    assert_same_weights(tiny_model, loaded)
    texts = ["where is the king", "the sea"]
    for saved, ours in zip(loaded.encode_queries(texts), tiny_model.encode_queries(texts), strict=True):
        assert torch.equal(saved, ours)


@pytest.mark.parametrize("cached", [False, True])
def test_relevance_over_the_batch_compares_every_question_with_every_passage_once(
    cached: bool,
    still_model: DrDecrModel,
    teacher: DrDecrTeacher,
    candidate_rows: Rows,
    collate: DistillationCollator,
    build: Build,
):
    rows = [
        {**candidate_rows[0], "document_ids": ["p1", "p2"]},
        {**candidate_rows[1], "document_ids": ["p1", "p3"]},
        {**candidate_rows[2], "document_ids": ["p4", "p2"]},
    ]
    settings = {"relevance_weight": 1.0, "relevance_over": "batch", "temperature": 0.1, "score_scale": 20.0}
    collator = collate
    reader: DrDecrModel = still_model
    if cached:  # student and teacher both search the teacher's passages
        caches = {
            "query_cache": TokenCache.of_queries(teacher, [row["english"] for row in rows]),
            "document_cache": TokenCache.of_documents(teacher, collate.passages),
        }
        collator, reader = DistillationCollator(collate.processor, collate.passages, **caches), teacher
    trainer = build(DistillationTrainer, still_model, rows, collator, teacher=None if cached else teacher, **settings)
    texts = [collate.passages[name] for name in ("p1", "p2", "p3", "p4")]

    def scaled(model: DrDecrModel, column: str, documents: list[torch.Tensor]) -> torch.Tensor:
        queries = model.encode_queries([row[column] for row in rows])
        return torch.stack([model.score([query], documents)[0] * 20 / len(query) for query in queries]) / 0.1

    student = scaled(still_model, "query", reader.encode_documents(texts)).log_softmax(dim=1)
    target = scaled(teacher, "english", teacher.encode_documents(texts)).log_softmax(dim=1)
    expected = 0.1**2 * sum(float((t.exp() * (t - s)).sum()) for s, t in zip(student, target, strict=True)) / 3
    assert trainer.compute_loss(still_model, collator(rows)).item() == pytest.approx(
        expected, rel=2e-2 if cached else 1e-4
    )
    assert expected > 1e-3


def test_relevance_over_the_batch_needs_the_english_question(
    still_model: DrDecrModel,
    teacher: DrDecrTeacher,
    candidate_rows: Rows,
    collate: DistillationCollator,
    build: Build,
):
    rows = [{"query": row["query"], "document_ids": row["document_ids"]} for row in candidate_rows[:3]]
    settings = {"relevance_weight": 1.0, "relevance_over": "batch"}
    trainer = build(DistillationTrainer, still_model, rows, collate, teacher=teacher, **settings)
    with pytest.raises(ValueError, match="the teacher must read the English question"):
        trainer.compute_loss(still_model, collate(rows))
