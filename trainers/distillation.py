"""The trainer of all stages: embed, score, loss. Which terms there are is said by the weights in its arguments."""

from collections.abc import Callable
from typing import Any

import torch
from huggingface_hub import HfApi
from torch import Tensor, nn
from torch.utils.data import SequentialSampler
from transformers import Trainer
from transformers.trainer_utils import HubStrategy
from transformers.utils import logging

from drdecr.data.hub_errors import explain, explained
from drdecr.data.hub_repositories import make_repository
from drdecr.modeling_drdecr import DrDecrModel, DrDecrTeacher, maxsim, maxsim_candidates
from drdecr.modeling_drdecr.pushing_drdecr import hub_name

from . import diagnostics
from .adapters import AdaptersOffTeacher
from .alignment import align_tokens
from .arguments import DistillationArguments
from .compatibility import check_dimensions, check_tokens
from .losses import (
    aligned_token_mse,
    candidate_cross_entropy,
    english_anchor_mse,
    in_batch_cross_entropy,
    relevance_kl,
    transported_token_mse,
)
from .pushing import copy_what_loads, write_training_card
from .transport import transport_weights

logger = logging.get_logger(__name__)

Batch = dict[str, Any]


class DistillationTrainer(Trainer):
    """Trains a student on any mix of the paper's objectives.

    Batches come from `drdecr.data.collators`; their keys are described there. A term is computed for a batch that holds
    what it needs: `relevance_kl` and `contrastive` need candidates, `aligned_tokens` the English question,
    `english_anchor` the English text in the document slot. Each term, and diagnostics of the gap between teacher and
    student, are logged by name.

    Args:
        model: the student, or the `PeftModel` around one (`trainers.adapters.add_adapter`).
        args: settings; the weights choose the terms. Default: the stage's own.
        teacher: the frozen teacher; None where the batches carry its scores and token embeddings. It stays out of
            `self.model`, so that it is neither saved, nor optimised, nor wrapped. `AdaptersOffTeacher` is the student's
            own backbone.
        validate: called with the student at every evaluation; the figures it returns are logged as `eval_<name>`, and
            one of them may choose the best checkpoint.
        **kwargs: passed to `transformers.Trainer`.

    Raises:
        ValueError: if the teacher's embedding dimension is not the student's; or if `english_anchor` has a weight and the two
            do not read English text as the same tokens.
    """

    args: DistillationArguments  # type: ignore[assignment]
    model: DrDecrModel  # type: ignore[assignment]
    arguments_class: type[DistillationArguments] = DistillationArguments
    loss_is_scaled_for_ga = False  # a mean over the batch: the Trainer divides by the accumulation steps

    def __init__(
        self,
        model: DrDecrModel,
        args: DistillationArguments | None = None,
        teacher: DrDecrTeacher | AdaptersOffTeacher | None = None,
        validate: Callable[[DrDecrModel], dict[str, float]] | None = None,
        **kwargs: Any,
    ) -> None:
        args = self.arguments_class() if args is None else args
        check_dimensions(model, teacher)
        if "english_anchor" in args.term_weights:
            check_tokens(model, teacher)
        if args.freeze_word_embeddings:
            model.get_input_embeddings().requires_grad_(False)
        if validate is not None and kwargs.get("eval_dataset") is None:
            kwargs["eval_dataset"] = {}  # no sets, so that the Trainer, which refuses None, comes to `evaluate`
        super().__init__(model=model, args=args, **kwargs)
        self.label_names: list[str] = []
        self.can_return_loss = True
        self.validate = validate
        self.teacher: Any = teacher
        if isinstance(teacher, nn.Module):
            self.teacher = self.accelerator.prepare_model(teacher.eval().requires_grad_(False), evaluation_mode=True)
        self._records = diagnostics.Records()

    def compute_loss(
        self, model: nn.Module, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the weighted sum of the terms that the batch allows."""
        terms = self._terms(model, inputs)
        if not terms:
            raise ValueError(
                f"A batch with {', '.join(sorted(inputs))} has nothing for the terms "
                f"{', '.join(self.args.term_weights)}. Give the rows the columns that they need, or set other weights."
            )
        self._records.add({name: value.detach() for name, value in terms.items()}, self.model.training)
        loss = sum(self.args.term_weights[name] * value for name, value in terms.items())
        return (loss, {}) if return_outputs else loss

    def _terms(self, model: nn.Module, inputs: Batch) -> dict[str, Tensor]:
        weights = self.args.term_weights
        query, query_mask = model(**inputs["query"]).embeddings, inputs["query"]["scoring_mask"]
        terms: dict[str, Tensor] = {}
        if {"relevance_kl", "contrastive", "in_batch_contrastive"} & set(weights) and _has_candidates(inputs):
            terms.update(self._score_terms(model, inputs, query, query_mask))
        if "aligned_tokens" in weights and ("teacher_query" in inputs or "teacher_query_embeddings" in inputs):
            terms["aligned_tokens"] = self._token_term(inputs, query)
        if "english_anchor" in weights and "anchor" in inputs:
            student = model(**inputs["anchor"]).embeddings
            target = self._needs_teacher("english_anchor")(**inputs["anchor"]).embeddings
            terms["english_anchor"] = english_anchor_mse(student, target, inputs["anchor"]["scoring_mask"])
        return terms

    def _score_terms(self, model: nn.Module, inputs: Batch, query: Tensor, query_mask: Tensor) -> dict[str, Tensor]:
        weights = self.args.term_weights
        documents, document_mask = _documents(model, inputs)
        over_batch = self.args.relevance_over == "batch"
        terms: dict[str, Tensor] = {}
        if "contrastive" in weights or ("relevance_kl" in weights and not over_batch):
            scores = self._scaled(maxsim_candidates(query, documents, query_mask, document_mask), query_mask.sum(dim=1))
        if "relevance_kl" in weights and over_batch:
            terms["relevance_kl"] = self._relevance_term(
                *self._batch_scores(inputs, query, query_mask, documents, document_mask)
            )
        elif "relevance_kl" in weights:
            terms["relevance_kl"] = self._relevance_term(scores, self._teacher_scores(inputs))
        if "contrastive" in weights:
            terms["contrastive"] = candidate_cross_entropy(scores, self.args.contrastive_temperature)
        if "in_batch_contrastive" in weights:
            terms["in_batch_contrastive"] = self._in_batch_term(inputs, query, query_mask, documents, document_mask)
        return terms

    def _relevance_term(self, student_scores: Tensor, teacher_scores: Tensor) -> Tensor:
        figures = diagnostics.of_scores(student_scores, teacher_scores, self.args.temperature)
        self._records.add(figures, self.model.training)
        return relevance_kl(student_scores, teacher_scores, self.args.temperature)

    def _batch_scores(
        self, inputs: Batch, query: Tensor, query_mask: Tensor, documents: Tensor, document_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the student's and the teacher's scores of every question for every passage of the batch, each once."""
        first = _first_places(inputs["document_keys"])
        documents, document_mask = documents.flatten(0, 1)[first], document_mask.flatten(0, 1)[first]
        scores = self._scaled(maxsim(query, documents, query_mask, document_mask), query_mask.sum(dim=1))
        with torch.no_grad():
            teacher_query, teacher_mask = self._teacher_question(inputs)
            documents, document_mask = (tensor.flatten(0, 1)[first] for tensor in self._teacher_documents(inputs))
            teacher_scores = maxsim(teacher_query, documents, teacher_mask, document_mask)
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
        read = self._needs_teacher("relevance_kl")(**inputs["teacher_query"]).embeddings
        return read.float(), inputs["teacher_query"]["scoring_mask"]

    def _teacher_documents(self, inputs: Batch) -> tuple[Tensor, Tensor]:
        """Return the teacher's tokens of the candidates, float32, and their scoring mask, cached or read now."""
        if "document_embeddings" in inputs:
            return inputs["document_embeddings"].float(), inputs["document_scoring_mask"]
        key = "teacher_document" if "teacher_document" in inputs else "document"
        documents, mask = _documents(self._needs_teacher("relevance_kl"), inputs, key)
        return documents.float(), mask

    def _in_batch_term(
        self, inputs: Batch, query: Tensor, query_mask: Tensor, documents: Tensor, document_mask: Tensor
    ) -> Tensor:
        batch, candidates = document_mask.shape[:2]
        scores = maxsim(query, documents.flatten(0, 1), query_mask, document_mask.flatten(0, 1))
        scores = self._scaled(scores, query_mask.sum(dim=1))
        keys = inputs["document_keys"].flatten()  # (batch * candidates,)
        positives = torch.arange(batch, device=scores.device) * candidates
        # The same passage may stand in two rows: it is no negative of a question that it answers.
        is_own_positive = keys[None, :] == keys[positives][:, None]
        return in_batch_cross_entropy(scores, positives, ~is_own_positive, self.args.contrastive_temperature)

    def _token_term(self, inputs: Batch, query: Tensor) -> Tensor:
        mask = "scoring_mask" if self.args.align_special_tokens else "text_mask"
        if "teacher_query_embeddings" in inputs:
            teacher, teacher_mask = inputs["teacher_query_embeddings"].to(query.dtype), inputs[f"teacher_query_{mask}"]
        else:
            teacher = self._needs_teacher("aligned_tokens")(**inputs["teacher_query"]).embeddings
            teacher_mask = inputs["teacher_query"][mask]
        student, student_mask = query.detach(), inputs["query"][mask]
        if self.args.alignment == "sinkhorn":
            temperature = self.args.alignment_temperature
            weights = transport_weights(student, teacher, student_mask, teacher_mask, temperature)
            self._records.add(diagnostics.of_transport(student, teacher, weights, student_mask), self.model.training)
            return transported_token_mse(query, teacher, weights)
        alignment = align_tokens(student, teacher, student_mask, teacher_mask, self.args.alignment)
        self._records.add(diagnostics.of_alignment(student, teacher, alignment, student_mask), self.model.training)
        return aligned_token_mse(query, teacher, alignment)

    def _teacher_scores(self, inputs: Batch) -> Tensor:
        """Return the teacher's scores `(batch, candidates)`: those of the batch, else of the teacher's own reading."""
        if "teacher_scores" in inputs:
            return self._scaled(inputs["teacher_scores"], inputs.get("teacher_query_tokens"))
        query, query_mask = self._teacher_question(inputs)
        documents, document_mask = self._teacher_documents(inputs)
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

    def _needs_teacher(self, term: str) -> Any:
        if self.teacher is None:
            raise ValueError(
                f"{term}: the batch does not carry what the teacher says, and there is no teacher. Pass one."
            )
        return self.teacher

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Create the optimizer; the projection may have a learning rate of its own."""
        optimizer = super().create_optimizer(*args, **kwargs)
        rate = self.args.projection_learning_rate
        if rate is None or any(group.get("name") == "projection" for group in optimizer.param_groups):
            return optimizer
        # Not by name: under an adapter the projection that is trained is a copy with another one.
        student = self.accelerator.unwrap_model(self.model)
        projection = [parameter for parameter in student.linear.parameters() if parameter.requires_grad]
        if not projection:
            raise ValueError(
                "projection_learning_rate: the projection is frozen. Leave the setting out, or train the projection too "
                "(`modules_to_save=['linear']` of an adapter)."
            )
        chosen = {id(parameter) for parameter in projection}
        decay = 0.0
        for group in optimizer.param_groups:
            if any(id(parameter) in chosen for parameter in group["params"]):
                decay = group["weight_decay"]
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in chosen]
        optimizer.add_param_group({"params": projection, "lr": rate, "weight_decay": decay, "name": "projection"})
        return optimizer

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
            diagnostics.warn_if_uninformative(means, logger)
        super().log(logs, start_time)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate the loss terms on the evaluation set or sets, then what `validate` measures, once."""
        metrics = super().evaluate(*args, **kwargs)
        # With several sets the Trainer comes back here for each, under a prefix of its own.
        if self.validate is not None and kwargs.get("metric_key_prefix", "eval") == "eval":
            student = self.accelerator.unwrap_model(self.model)
            figures = {f"eval_{name}": value for name, value in self.validate(student).items()}
            self.log(dict(figures))
            # Tells the callbacks that this evaluation is done, also where there is no evaluation set.
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, figures)
            metrics.update(figures)
        return metrics

    def init_hf_repo(self, *args: Any, **kwargs: Any) -> None:
        """Create the repository that is pushed to; what fails is said in one line, before anything is trained."""
        with explained(self.args.hub_model_id):
            super().init_hf_repo(*args, **kwargs)
            if self.args.hub_private_repo and self.is_world_process_zero():
                make_repository(HfApi(token=self.args.hub_token), str(self.hub_model_id), private=True)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write a card of what this training knows; the Trainer's own names no base model and guesses hardware."""
        if not self.is_world_process_zero():
            return
        student: Any = self.accelerator.unwrap_model(self.model)
        adapters = getattr(student, "peft_config", {})
        base = next((found.base_model_name_or_path for found in adapters.values()), student.config._name_or_path)
        library = "peft" if adapters else "transformers"
        folder, log = str(self.args.output_dir), self.state.log_history
        write_training_card(folder, self.args, hub_name(str(base)), log, library)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Push so that it loads: the Trainer's own push leaves out the code that the configuration names."""
        push = getattr(self, "push_in_progress", None)  # the Trainer gives it to the main process alone
        is_left_out = push is not None and not push.is_done() and not self.args.hub_always_push
        # While a push runs, it reads the files that would be written.
        if self.is_world_process_zero() and self.args.hub_strategy != HubStrategy.END and not is_left_out:
            copy_what_loads(checkpoint_folder, str(self.args.output_dir))
            self.create_model_card()
        super()._push_from_checkpoint(checkpoint_folder)

    def _finish_current_push(self) -> None:
        """Wait for uploads, and say which failed: a lost connection ends no training."""
        super()._finish_current_push()
        push = getattr(self, "push_in_progress", None)
        for job in push.jobs if push is not None else []:
            error = job.exception() if job.done() and not job.cancelled() else None
            if error is not None:
                logger.warning(f"An upload during the training failed. {explain(error) or error}")

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        """Take rows of a mixture in the order that it laid out."""
        dataset: Any = args[0] if args else kwargs.get("train_dataset") or self.train_dataset
        if getattr(dataset, "is_ordered", False):
            return SequentialSampler(dataset)
        return super()._get_train_sampler(*args, **kwargs)


def _has_candidates(inputs: Batch) -> bool:
    return "document" in inputs or "document_embeddings" in inputs


def _first_places(keys: Tensor) -> Tensor:
    """Return where in the flattened keys each different one stands first, in order of appearance."""
    flat = keys.flatten()
    is_repeated = (flat[:, None] == flat[None, :]).tril(diagonal=-1).any(dim=1)
    return (~is_repeated).nonzero()[:, 0]


def _documents(model: Any, inputs: Batch, key: str = "document") -> tuple[Tensor, Tensor]:
    """Return candidate embeddings `(batch, candidates, tokens, dim)` and their scoring mask, cached or encoded now."""
    if "document_embeddings" in inputs:
        dtype = next(model.parameters()).dtype
        return inputs["document_embeddings"].to(dtype), inputs["document_scoring_mask"]
    batch, candidates, tokens = inputs[key]["input_ids"].shape
    flat = {name: tensor.flatten(0, 1) for name, tensor in inputs[key].items()}
    embeddings = model(**flat).embeddings.view(batch, candidates, tokens, -1)
    return embeddings, inputs[key]["scoring_mask"]
