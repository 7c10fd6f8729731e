"""The trainer of all stages: embed, score, loss. Which terms there are is said by the weights in its arguments."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import SequentialSampler
from transformers.utils import logging

from drdecr.data.shards import check_processes
from drdecr.modeling_drdecr import DrDecrModel, DrDecrProcessor, DrDecrTeacher, maxsim, maxsim_candidates

from . import diagnostics
from .adapters import AdaptersOffTeacher
from .alignment import align_tokens
from .arguments import (
    ContrastiveArguments,
    DistillationArguments,
    RelevanceDistillationArguments,
    RepresentationDistillationArguments,
)
from .checks import check_sharding, layer_classes
from .components import prepare_parts, separate_projection
from .encoding import (
    PASSES_ON_CPU,
    TOKENS_PER_PASS_ON_CPU,
    PassagePool,
    Texts,
    encode_once,
    gather_passages,
)
from .hub import PushingTrainer
from .losses import (
    aligned_token_mse,
    candidate_cross_entropy,
    english_anchor_mse,
    in_batch_cross_entropy,
    relevance_kl,
    transported_token_mse,
)
from .transport import transport_weights

logger = logging.get_logger(__name__)

Batch = dict[str, Any]


class DistillationTrainer(PushingTrainer):
    """Trains a student on any mix of the paper's objectives.

    Batches come from `drdecr.data.collators`; their keys are described there. A term is computed for a batch that holds
    what it needs: `relevance_kl` and `contrastive` need candidates, `aligned_tokens` the English question,
    `english_anchor` the English text in the document slot. Each term, and diagnostics of the gap between teacher and
    student, are logged by name.

    Args:
        model: the student, the `PeftModel` around one, or a name or folder (`model_init_kwargs` of the settings go with it).
            It is trained in float32, whatever precision it was saved in.
        args: settings; the weights choose the terms. Default: the stage's own.
        teacher: the frozen teacher, or its name or folder (`teacher_model_init_kwargs`); None where the batches carry its
            scores and token embeddings. It stays out of `self.model`, so that it is neither saved, nor optimised, nor wrapped.
            `AdaptersOffTeacher` is the student's own backbone, which teaches where `peft_config` is given and no teacher is.
        evaluator: called with the student at every evaluation; the figures it returns are logged as `eval_<name>`, and one of
            them may choose the best checkpoint: its `primary_metric`, if it has one as those of sentence-transformers have, where
            `metric_for_best_model` names no other.
        passages: `{document_id: text}`, where rows name passages and the collator is made here (default None).
        processing_class: a `DrDecrProcessor` in the place of the student's own (default None).
        peft_config: a configuration of peft, `LoraConfig()` for one, laid over the student (default None).
        **kwargs: passed to `transformers.Trainer`; `data_collator` is made where there is none.

    Raises:
        ValueError: where the parts do not fit (`components`), where launched processes do not find each other, or if FSDP
            would wait for itself (`check_sharding`).
    """

    args: DistillationArguments  # type: ignore[assignment]
    model: DrDecrModel  # type: ignore[assignment]
    arguments_class: type[DistillationArguments] = DistillationArguments
    loss_is_scaled_for_ga = False  # a mean over the batch: the Trainer divides by the accumulation steps

    def __init__(
        self,
        model: DrDecrModel | str,
        args: DistillationArguments | None = None,
        teacher: DrDecrTeacher | AdaptersOffTeacher | str | None = None,
        evaluator: Callable[[DrDecrModel], dict[str, float]] | None = None,
        passages: Mapping[str, str] | None = None,
        processing_class: DrDecrProcessor | None = None,
        peft_config: Any = None,
        **kwargs: Any,
    ) -> None:
        args = self.arguments_class() if args is None else args
        check_processes(args.world_size)
        rows, given = kwargs.get("train_dataset"), kwargs.pop("data_collator", None)
        parts = prepare_parts(model, args, teacher, given, processing_class, peft_config, passages, rows)
        student, frozen, collator = parts
        if evaluator is not None and kwargs.get("eval_dataset") is None:
            kwargs["eval_dataset"] = {}  # no sets, so that the Trainer, which refuses None, comes to `evaluate`
        super().__init__(model=student, args=args, data_collator=collator, processing_class=processing_class, **kwargs)
        self.label_names: list[str] = []
        self.can_return_loss = True
        self.evaluator = evaluator
        self.teacher: Any = frozen
        if isinstance(frozen, nn.Module):
            # Not by `accelerator.prepare_model`, which would have it compute in the student's precision.
            self.teacher = frozen.eval().requires_grad_(False).to(self.accelerator.device)
        if self.is_fsdp_enabled:
            check_sharding(student, evaluator, self.train_dataset)
            plugin: Any = self.accelerator.state.fsdp_plugin
            if plugin.transformer_cls_names_to_wrap is None:  # no configuration says it
                plugin.transformer_cls_names_to_wrap = layer_classes(student)
        self._records = diagnostics.Records()

    def compute_loss(
        self, model: nn.Module, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the weighted sum of the terms that the batch allows."""
        query, query_mask = self._encode(model, inputs["query"]), inputs["query"]["scoring_mask"]
        terms = self._terms(model, inputs, query, query_mask)
        if not terms:
            raise ValueError(
                f"A batch with {', '.join(sorted(inputs))} has nothing for the terms "
                f"{', '.join(self.args.term_weights)}. Give the rows the columns that they need, or set other weights."
            )
        self._record({name: value.detach() for name, value in terms.items()}, query)
        loss: Any = sum(self.args.term_weights[name] * value for name, value in terms.items())
        if self._gathers() and not _has_candidates(inputs):
            loss = loss + self._nothing_to_gather(query, query_mask)
        return (loss, {}) if return_outputs else loss

    def _terms(self, model: nn.Module, inputs: Batch, query: Tensor, query_mask: Tensor) -> dict[str, Tensor]:
        weights = self.args.term_weights
        terms: dict[str, Tensor] = {}
        if {"relevance_kl", "contrastive", "in_batch_contrastive"} & set(weights) and _has_candidates(inputs):
            terms.update(self._score_terms(model, inputs, query, query_mask))
        if "aligned_tokens" in weights and ("teacher_query" in inputs or "teacher_query_embeddings" in inputs):
            terms["aligned_tokens"] = self._token_term(inputs, query)
        if "english_anchor" in weights and "anchor" in inputs:
            student = self._encode(model, inputs["anchor"])
            target = self._encode(self._needs_teacher("english_anchor"), inputs["anchor"])
            terms["english_anchor"] = english_anchor_mse(student, target, inputs["anchor"]["scoring_mask"])
        return terms

    def _score_terms(self, model: nn.Module, inputs: Batch, query: Tensor, query_mask: Tensor) -> dict[str, Tensor]:
        weights = self.args.term_weights
        documents, document_mask = self._documents(model, inputs, query.dtype)
        over_batch = self.args.relevance_over == "batch"
        terms: dict[str, Tensor] = {}
        if "in_batch_contrastive" in weights or ("relevance_kl" in weights and over_batch):
            pool = self._pool(inputs, documents, document_mask)
        if "contrastive" in weights or ("relevance_kl" in weights and not over_batch):
            scores = self._candidate_scores(query, documents, query_mask, document_mask)
        if "relevance_kl" in weights and over_batch:
            terms["relevance_kl"] = self._relevance_term(*self._batch_scores(inputs, query, query_mask, pool))
        elif "relevance_kl" in weights:
            terms["relevance_kl"] = self._relevance_term(scores, self._teacher_scores(inputs))
        if "contrastive" in weights:
            terms["contrastive"] = candidate_cross_entropy(scores, self.args.contrastive_temperature)
        if "in_batch_contrastive" in weights:
            terms["in_batch_contrastive"] = self._in_batch_term(inputs, query, query_mask, pool)
        return terms

    def _encode(self, model: Any, texts: Texts) -> Tensor:
        # Not compiled: what is compiled twice, with other shapes, keeps other tensors for the pass that makes them again.
        is_wrapped = isinstance(model, nn.Module)
        inner = self.accelerator.unwrap_model(model, keep_torch_compile=False) if is_wrapped else model
        size, distinct = self.args.encode_mini_batch_size, not self.is_fsdp_enabled
        return encode_once(model, texts, size, inner, distinct, *self._forward_passes())

    def _forward_passes(self) -> tuple[int, int | None]:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled or self.args.torch_compile:
            return 1, None
        if self.args.forward_passes is not None or self.accelerator.device.type != "cpu":
            return self.args.forward_passes or 1, None
        return PASSES_ON_CPU, TOKENS_PER_PASS_ON_CPU

    def _documents(self, model: Any, inputs: Batch, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return candidate embeddings `(batch, candidates, tokens, dim)` and their scoring mask, cached or encoded now.

        Cached ones come in `dtype`, the questions': FSDP2 computes in another precision than its parameters'.
        """
        if "document_embeddings" in inputs:
            return inputs["document_embeddings"].to(dtype), inputs["document_scoring_mask"]
        return self._encode(model, inputs["document"]), inputs["document"]["scoring_mask"]

    def _gathers(self) -> bool:
        """Tell whether some term compares questions with the passages of other processes."""
        compares = self.args.in_batch_weight > 0 or (
            self.args.relevance_weight > 0 and self.args.relevance_over == "batch"
        )
        return compares and self.args.gather_across_devices and self.accelerator.num_processes > 1

    def _pool(self, inputs: Batch, documents: Tensor, document_mask: Tensor) -> PassagePool:
        """Return the passages of the batch, or of all processes' batches."""
        questions = torch.zeros_like(inputs["document_keys"])
        questions[:, 0] = inputs["question_keys"]  # the first candidate is the positive
        keys = torch.stack([inputs["document_keys"], questions], dim=-1)
        flat = documents.flatten(0, 1), document_mask.flatten(0, 1), keys.flatten(0, 1)
        return gather_passages(*flat) if self._gathers() else PassagePool(*flat)

    def _nothing_to_gather(self, query: Tensor, query_mask: Tensor) -> Tensor:
        """Take part in what other processes gather, with no passages; 0, with the gradients that they ask for."""
        nothing = query_mask[:0], torch.zeros(0, 2, dtype=torch.int64, device=query.device)
        pool = gather_passages(query[:0], *nothing)
        if self.args.relevance_weight > 0 and self.args.relevance_over == "batch":  # the teacher's
            width = query.shape[2] if self.teacher is None else self.teacher.config.embedding_dim
            gather_passages(query.new_zeros(0, query.shape[1], width, dtype=torch.float32), *nothing)
        return 0.0 * pool.embeddings.sum()

    def _relevance_term(self, student_scores: Tensor, teacher_scores: Tensor) -> Tensor:
        figures = diagnostics.of_scores(student_scores, teacher_scores, self.args.temperature)
        self._record(figures, student_scores)
        return relevance_kl(student_scores, teacher_scores, self.args.temperature)

    def _batch_scores(
        self, inputs: Batch, query: Tensor, query_mask: Tensor, pool: PassagePool
    ) -> tuple[Tensor, Tensor]:
        """Return the student's and the teacher's scores of every question for every passage of the pool, each once."""
        first = pool.distinct_places()
        scores = self._scaled(
            maxsim(query, pool.embeddings[first], query_mask, pool.mask[first]), query_mask.sum(dim=1)
        )
        with torch.no_grad():
            teacher_query, teacher_mask = self._teacher_question(inputs)
            read = self._pool(inputs, *self._teacher_documents(inputs))
            teacher_scores = maxsim(teacher_query, read.embeddings[first], teacher_mask, read.mask[first])
            return scores, self._scaled(teacher_scores, teacher_mask.sum(dim=1))

    def _teacher_question(self, inputs: Batch) -> tuple[Tensor, Tensor]:
        """Return the teacher's tokens of the English questions, float32, and their scoring mask, cached or read now."""
        if "teacher_query_embeddings" in inputs:
            return inputs["teacher_query_embeddings"].float(), inputs["teacher_query_scoring_mask"]
        if "teacher_query" not in inputs:
            raise ValueError(
                "relevance_kl: the teacher must read the English question, and the rows have none. Give them an `english` "
                "column, or `teacher_scores` with `relevance_over: row`."
            )
        read = self._encode(self._needs_teacher("relevance_kl"), inputs["teacher_query"])
        return read.float(), inputs["teacher_query"]["scoring_mask"]

    def _teacher_documents(self, inputs: Batch) -> tuple[Tensor, Tensor]:
        """Return the teacher's tokens of the candidates, float32, and their scoring mask, cached or read now."""
        if "document_embeddings" in inputs:
            return inputs["document_embeddings"].float(), inputs["document_scoring_mask"]
        key = "teacher_document" if "teacher_document" in inputs else "document"
        return self._encode(self._needs_teacher("relevance_kl"), inputs[key]).float(), inputs[key]["scoring_mask"]

    def _in_batch_term(self, inputs: Batch, query: Tensor, query_mask: Tensor, pool: PassagePool) -> Tensor:
        batch, candidates = inputs["document_keys"].shape
        scores = self._scaled(maxsim(query, pool.embeddings, query_mask, pool.mask), query_mask.sum(dim=1))
        # A passage may stand in several rows: it counts once, and is no negative of any question that it answers.
        first = pool.first_places()
        positives = first[torch.arange(batch, device=scores.device) * candidates + pool.offset]
        counts = first == torch.arange(len(first), device=scores.device)
        is_answer = pool.answers_of(inputs["question_keys"], inputs.get("answer_keys"))
        return in_batch_cross_entropy(scores, positives, counts & ~is_answer, self.args.contrastive_temperature)

    def _token_term(self, inputs: Batch, query: Tensor) -> Tensor:
        mask = "scoring_mask" if self.args.align_special_tokens else "text_mask"
        if "teacher_query_embeddings" in inputs:
            teacher, teacher_mask = inputs["teacher_query_embeddings"].to(query.dtype), inputs[f"teacher_query_{mask}"]
        else:
            teacher = self._encode(self._needs_teacher("aligned_tokens"), inputs["teacher_query"])
            teacher_mask = inputs["teacher_query"][mask]
        student, student_mask = query.detach(), inputs["query"][mask]
        if self.args.alignment == "sinkhorn":
            temperature = self.args.alignment_temperature
            weights = transport_weights(student, teacher, student_mask, teacher_mask, temperature)
            self._record(diagnostics.of_transport(student, teacher, weights, student_mask), query)
            return transported_token_mse(query, teacher, weights)
        alignment = align_tokens(student, teacher, student_mask, teacher_mask, self.args.alignment)
        self._record(diagnostics.of_alignment(student, teacher, alignment, student_mask), query)
        return aligned_token_mse(query, teacher, alignment)

    def _teacher_scores(self, inputs: Batch) -> Tensor:
        """Return the teacher's scores `(batch, candidates)`: those of the batch, else of the teacher's own reading."""
        if "teacher_scores" in inputs:
            return self._scaled(inputs["teacher_scores"], inputs.get("teacher_query_tokens"))
        query, query_mask = self._teacher_question(inputs)
        documents, document_mask = self._teacher_documents(inputs)
        return self._candidate_scores(query, documents, query_mask, document_mask)

    def _candidate_scores(self, query: Tensor, documents: Tensor, query_mask: Tensor, document_mask: Tensor) -> Tensor:
        return self._scaled(maxsim_candidates(query, documents, query_mask, document_mask), query_mask.sum(dim=1))

    def _scaled(self, scores: Tensor, num_query_tokens: Tensor | None) -> Tensor:
        if self.args.score_scale is None:
            return scores
        if num_query_tokens is None:
            raise ValueError(
                "score_scale needs to know how many query tokens each teacher score sums over. Give the rows a "
                "`teacher_query_tokens` column, or leave `score_scale` out."
            )
        # 0: the scores of a cross-encoder or a file, which sum over nothing, are taken as they are.
        factors = torch.where(num_query_tokens > 0, self.args.score_scale / num_query_tokens.clamp(min=1), 1.0)
        return scores * factors[:, None]

    def _record(self, figures: dict[str, Tensor], rows: Tensor) -> None:
        self._records.add(figures, self.model.training, len(rows))

    def _needs_teacher(self, term: str) -> Any:
        if self.teacher is None:
            raise ValueError(
                f"{term}: the batch does not carry what the teacher says, and there is no teacher. Pass one."
            )
        return self.teacher

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Create the optimizer; the projection may have a learning rate of its own."""
        optimizer = super().create_optimizer(*args, **kwargs)
        if self.args.projection_learning_rate is not None:
            student = self.accelerator.unwrap_model(self.model)
            separate_projection(optimizer, student, self.args.projection_learning_rate)
        return optimizer

    def prediction_step(
        self, model: nn.Module, inputs: Batch, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> Any:
        """Return the loss and, for `compute_metrics`, scores of each row's candidates.

        Its predictions are the student's scores `(rows, candidates)` and, where scores are distilled, the teacher's beside
        them; the labels are the places of the positives, 0.
        """
        loss = super().prediction_step(model, inputs, True, ignore_keys)[0]
        if prediction_loss_only or self.compute_metrics is None:
            return loss, None, None
        inputs = self._prepare_inputs(inputs)
        if not _has_candidates(inputs):
            raise ValueError(
                "compute_metrics: expected rows with candidates, whose scores it is given, got rows without. Pass an "
                "`evaluator`, which is called with the student."
            )
        with torch.no_grad():
            query, mask = self._encode(model, inputs["query"]), inputs["query"]["scoring_mask"]
            documents = self._documents(model, inputs, query.dtype)
            scores = [self._candidate_scores(query, documents[0], mask, documents[1])]
            if "relevance_kl" in self.args.term_weights:
                scores.append(self._teacher_scores(inputs))
        return loss, tuple(scores), torch.zeros(len(query), dtype=torch.int64, device=query.device)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means of the terms and diagnostics since the last line, over all processes."""
        evaluated = next(
            (key.removesuffix("_loss") for key in logs if key.startswith("eval") and key.endswith("_loss")), None
        )
        if evaluated is not None:
            means = self._records.means(self.accelerator, training=False)
            logs.update({f"{evaluated}_{name}": value for name, value in means.items()})
        elif "loss" in logs:
            means = self._records.means(self.accelerator, training=True)
            logs.update(means)
            diagnostics.check_finite(means, self.args.term_weights, self.accelerator.scaler is not None)
            diagnostics.warn_if_uninformative(means, logger)
        super().log(logs, start_time)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate the loss terms on the evaluation set or sets, then what the evaluator measures, once."""
        metrics = super().evaluate(*args, **kwargs)
        # With several sets the Trainer comes back here for each, under a prefix of its own.
        if self.evaluator is not None and kwargs.get("metric_key_prefix", "eval") == "eval":
            student = self.accelerator.unwrap_model(self.model)
            figures = {f"eval_{name}": value for name, value in self.evaluator(student).items()}
            primary = getattr(self.evaluator, "primary_metric", None)
            if primary is not None and self.args.metric_for_best_model == "loss":  # what the Trainer takes by itself
                self.args.metric_for_best_model, self.args.greater_is_better = primary, True
            self.log(dict(figures))
            # Tells the callbacks that this evaluation is done, also where there is no evaluation set.
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, figures)
            metrics.update(figures)
        return metrics

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        """Take rows of a mixture in the order that it laid out."""
        dataset: Any = args[0] if args else kwargs.get("train_dataset") or self.train_dataset
        if getattr(dataset, "is_ordered", False):
            return SequentialSampler(dataset)
        return super()._get_train_sampler(*args, **kwargs)


def _has_candidates(inputs: Batch) -> bool:
    return "document" in inputs or "document_embeddings" in inputs


class ContrastiveTrainer(DistillationTrainer):
    """Stages A and B: learn from labelled question-passage pairs. Arguments as in `DistillationTrainer`."""

    arguments_class = ContrastiveArguments


class RepresentationDistillationTrainer(DistillationTrainer):
    """Stage C: learn the teacher's tokens from parallel text. Arguments as in `DistillationTrainer`."""

    arguments_class = RepresentationDistillationArguments


class RelevanceDistillationTrainer(DistillationTrainer):
    """Stage D: learn the teacher's scores over candidates. Arguments as in `DistillationTrainer`."""

    arguments_class = RelevanceDistillationArguments
