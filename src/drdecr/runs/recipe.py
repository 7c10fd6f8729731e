"""Recipes: one YAML a stage. Read, override, check, and write down what was resolved."""

import inspect
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from drdecr.data.schema import check_keys
from drdecr.modeling_drdecr import DrDecrProcessor
from drdecr.trainers import (
    ContrastiveArguments,
    DistillationArguments,
    LoraSettings,
    RelevanceDistillationArguments,
    RepresentationDistillationArguments,
)
from drdecr.trainers.arguments import TERM_WEIGHTS, check_sizes
from drdecr.trainers.precision import PRECISIONS

from .config import build_settings, check_values, override, read_yaml

ARGUMENTS: dict[str, type[DistillationArguments]] = {
    "contrastive": ContrastiveArguments,
    "representation": RepresentationDistillationArguments,
    "relevance": RelevanceDistillationArguments,
    "mixed": DistillationArguments,
}
"""Kinds of stage and their settings. `initialise` trains nothing: it sets the projection of a bare encoder."""

STAGES = ("initialise", *ARGUMENTS)
EMBEDDING_DIM, PROJECTION = 128, "language_neutral"
"""What a bare encoder gets where a recipe says nothing."""
ADAPTERS_OFF = "adapters_off"
"""As `teacher`: the student's own backbone, without its adapter."""


ENGLISH_TERMS = {"relevance_kl", "aligned_tokens", "english_anchor"}
"""Loss terms for which a teacher reads the English question."""

CANDIDATE_TERMS = {"relevance_kl", "contrastive", "in_batch_contrastive"}
"""Loss terms that compare a question with candidates."""


@dataclass
class DataSettings:
    """Where a stage's rows come from. Entries are `{format: ..., arguments of the reader}` (`drdecr.data.sources`).

    An entry may also say what is known `about` its source (`about: {license: ..., source: ...}`), for exported data.

    Args:
        parallel: parallel text, for `aligned_tokens` and `english_anchor`.
        questions: question sets with known answers, for the contrastive terms and, with `english`, for `relevance_kl`.
        unlabelled_queries: parallel questions without a known answer, for `relevance_kl`: the teacher finds their candidates.
        scored_candidates: questions with candidates and the teacher's scores, as `drdecr data export` writes them: they need no
            teacher.
        corpus: question sets whose passages are searched for those candidates.
        held_out: sets whose questions must not be trained on; beside the other formats, `{format: texts, path, column}` for
            a column of JSON Lines.
        negatives: of `questions`: `given` (the wrong passages that a set brings, such as those of triples; other rows are
            left out), `mined` (passages that the teacher ranks high) or `both`; default: what a row brings, mined ones
            where it brings none. Where all rows bring theirs, no passage is encoded before the training.
        num_candidates: candidates a question, the positive included where one is known; fewer where nine in ten rows of
            `questions` do not bring as many.
        candidate_depth: how far down the teacher's ranking candidates are taken from; default: no further than needed.
        candidates_by: how the pool is ranked: `maxsim` (default) or, much faster, `mean`, by the cosine of mean tokens.
        english_share: of parallel rows, add this share again with the English text as the question (default 0), so that
            English is not forgotten.
        cache_teacher: compute the teacher's tokens of questions once (default True).
        cache_passages: use the teacher's passage tokens instead of encoding passages (default False). Only the query side
            is then trained, and the student searches the teacher's index.
        token_folder: folder in which the teacher's tokens are kept, by its weights and each text, and read back by whatever
            run has the same teacher; several processes share the work. Default: in memory, encoded by every run.
        query_tokens: the teacher's tokens of the English texts, `{format: hub_tokens, ...}` or `{format: stored_tokens, path:
            ...}`; default: the teacher reads them.
        passage_tokens: the teacher's tokens of the passages, used as with `cache_passages`; beside the formats above
            `{format: index, path: ...}`, an index that the teacher made.
        weights: how often each of `parallel`, `questions`, `unlabelled_queries` and `scored_candidates` is drawn (default: by
            size).
        dev_texts: cut the rows of this many English texts off each set, to evaluate the loss terms on (default 16, at most a
            fifth). A text that stands in several sets is cut off all of them; none is where nothing is evaluated.
        limits: keep this many rows of a set, by its name, drawn with the seed; default: all.
        language_temperature: T: within a set, a language with n rows is drawn with probability proportional to n^(1/T).
            Default 1: by size. With more, small languages come more often, and `max_steps` is needed.
        source_weights: how often each source of `parallel` is drawn, by its name (default: by size). All its entries are then
            prepared folders with `cleaned: true`, every source of them has a weight, and `max_steps` is needed.
    """

    parallel: list[dict[str, Any]] = field(default_factory=list)
    questions: list[dict[str, Any]] = field(default_factory=list)
    unlabelled_queries: list[dict[str, Any]] = field(default_factory=list)
    scored_candidates: list[dict[str, Any]] = field(default_factory=list)
    corpus: list[dict[str, Any]] = field(default_factory=list)
    held_out: list[dict[str, Any]] = field(default_factory=list)
    negatives: str | None = None
    num_candidates: int = 16
    candidate_depth: int | None = None
    candidates_by: str = "maxsim"
    english_share: float = 0.0
    cache_teacher: bool = True
    cache_passages: bool = False
    token_folder: str | None = None
    query_tokens: dict[str, Any] | None = None
    passage_tokens: dict[str, Any] | None = None
    weights: dict[str, float] | None = None
    dev_texts: int = 16
    limits: dict[str, int] = field(default_factory=dict)
    language_temperature: float = 1.0
    source_weights: dict[str, float] | None = None

    def __post_init__(self) -> None:
        """Check what can be checked without data."""
        if self.negatives not in (None, "given", "mined", "both"):
            raise ValueError(f"data.negatives: expected given, mined or both, got {self.negatives!r}.")


@dataclass
class Recipe:
    """One stage: where it starts, what it learns from, what it is measured on.

    Args:
        stage: `initialise`, `contrastive`, `representation`, `relevance` or `mixed`.
        output: the run's folder.
        model: a checkpoint folder or Hub name, `offline`, or `stage:NAME` for the model of the run beside this one.
        teacher: a checkpoint folder, Hub name or `stage:NAME`, none of them a bare encoder; or with `lora` `adapters_off`:
            the model that the stage starts from; default: none.
        processor: settings of `DrDecrProcessor`, for a start that is a bare encoder.
        embedding_dim: width of the projection, for a start that is a bare encoder (default 128, the paper's).
        projection: how the projection of a bare encoder is set (`drdecr.trainers.projection`; default language_neutral).
        projection_text: parallel text that it is set from.
        projection_texts: how many texts a language are read for it (default 400: some 8,000 tokens).
        data: what is learnt from.
        validation: question sets that the student is measured on during training; `avg` of MRR@10 picks the checkpoint. An
            entry may have `distractors`, question sets whose passages are searched too.
        training: settings of the stage's arguments; those not named keep the paper's values.
        revision: of `model`, if it is on the Hub.
        precision: what the student's training computes in, beside float32 weights: `float32` (default), `bfloat16`, or `auto`,
            whichever a measurement at the start finds faster on the machine. A resumed run goes on in what it began with.
        teacher_dtype: precision in which the teacher encodes, likewise (default float32). bfloat16 is about 1.7 times as fast
            on CPUs that have it and far slower on others; the smallest token cosine to float32 is 0.99.
        lora: train an adapter and the projection only (`drdecr.trainers.adapters.LoraSettings`); default: the whole model.
            The start is then a checkpoint, and the adapter only fits that one.
        encoder: settings of the start's encoder, by their names in its `config.json` (`hidden_dropout_prob: 0.0`); saved with
            the model.
    """

    stage: str
    output: str
    model: str
    teacher: str | None = None
    processor: dict[str, Any] = field(default_factory=dict)
    embedding_dim: int | None = None
    projection: str | None = None
    projection_text: list[dict[str, Any]] = field(default_factory=list)
    projection_texts: int = 400
    data: DataSettings = field(default_factory=DataSettings)
    validation: list[dict[str, Any]] = field(default_factory=list)
    training: dict[str, Any] = field(default_factory=dict)
    revision: str | None = None
    precision: str = "float32"
    teacher_dtype: str = "float32"
    lora: LoraSettings | None = None
    encoder: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check what can be checked without data."""
        if self.stage not in STAGES:
            raise ValueError(f"stage: expected one of {', '.join(STAGES)}, got {self.stage!r}.")
        if self.lora is not None and self.stage == "initialise":
            raise ValueError(
                "lora: the stage `initialise` trains nothing. Give `lora` to the stage that starts from it."
            )
        for key in ("precision", "teacher_dtype"):
            if getattr(self, key) not in PRECISIONS:
                raise ValueError(f"{key}: expected one of {', '.join(PRECISIONS)}, got {getattr(self, key)!r}.")
        if self.precision != "float32" and (self.training.get("bf16") or self.training.get("fp16")):
            raise ValueError(
                f"precision: expected it alone, got {self.precision!r} beside `bf16` or `fp16` under `training`. Leave one out."
            )
        if self.teacher == ADAPTERS_OFF and (self.lora is None or self.teacher_dtype != "float32"):
            raise ValueError(
                "teacher: `adapters_off` is the student's own backbone. It needs `lora`, and `teacher_dtype` left out."
            )
        settings = list(inspect.signature(DrDecrProcessor).parameters)
        check_keys(self.processor, [name for name in settings if name != "tokenizer"], "processor")
        if self.stage != "initialise":
            check_values(self.training, ARGUMENTS[self.stage], "training")
            self.training = {name: value for name, value in self.training.items() if value is not None}
            check_sizes(self.training)
        if "hub_token" in self.training:
            raise ValueError(
                "training.hub_token: a recipe is written down and shared, so it must hold no token. Log in with "
                "`hf auth login`, or set HF_TOKEN."
            )

    @property
    def loss_terms(self) -> set[str]:
        """The loss terms that have a weight."""
        if self.stage == "initialise":
            return set()
        defaults = ARGUMENTS[self.stage]
        return {
            term
            for term, setting in TERM_WEIGHTS.items()
            if (self.training.get(setting, getattr(defaults, setting)) or 0) > 0
        }

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.output)

    @property
    def model_folder(self) -> Path:
        """Where the run's model is written when it is done: of an adapter that is not merged, its own folder."""
        return self.adapter_folder if self.lora and not self.lora.merge else self.folder / "model"

    @property
    def adapter_folder(self) -> Path:
        """Where a run with `lora` writes its adapter."""
        return self.folder / "adapter"

    def resolve(self, source: str) -> str:
        """Return the folder or Hub name that `model` or `teacher` means.

        Raises:
            FileNotFoundError: for `stage:NAME` without a finished run of that name.
        """
        if not source.startswith("stage:"):
            return source
        run = self.folder.parent / source.removeprefix("stage:")
        folder = next((run / name for name in ("model", "adapter") if (run / name).is_dir()), None)
        if folder is None:
            raise FileNotFoundError(
                f"{source}: no model in {run / 'model'}. Run that stage first, with its output there."
            )
        return str(folder)

    @property
    def is_evaluated(self) -> bool:
        """Whether anything is evaluated while it trains: on a validation set, or because `eval_strategy` asks for it."""
        return self.training.get("eval_strategy", "steps" if self.validation else "no") != "no"

    def differences(self, other: "Recipe") -> list[str]:
        """Return the keys in which another recipe asks for something else; one that is not there has its default."""
        return [key for key, value in _flat(self).items() if _flat(other).get(key) != value]

    def as_yaml(self) -> str:
        """Return the resolved recipe."""
        return yaml.safe_dump(asdict(self), sort_keys=False, allow_unicode=True)


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply `--key value` overrides.

    A bare key is looked for at the top level, then under `training` and `data`; `data.dev_texts` names the place itself.

    Args:
        path: a YAML file.
        overrides: `["--learning_rate", "1e-5", "--data.dev_texts=8"]`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for YAML that is no mapping, an unknown key (with the nearest known one), or an odd override.
    """
    content = read_yaml(path)
    arguments = ARGUMENTS.get(str(content.get("stage")), DistillationArguments)
    sections = {"": Recipe, "data": DataSettings, "training": arguments, "lora": LoraSettings}
    override(content, overrides, sections, bare=("", "data", "training"))
    if isinstance(content.get("output"), int | float):
        content["output"] = str(content["output"])  # a folder named 7
    return build_settings(Recipe, content, str(path))


def _flat(recipe: Recipe) -> dict[str, Any]:
    """Return all settings by their dotted keys; those that say nothing hold what they mean."""
    content = asdict(recipe)
    content["embedding_dim"] = EMBEDDING_DIM if recipe.embedding_dim is None else recipe.embedding_dim
    content["projection"] = content["projection"] or PROJECTION
    sections = {name: content.pop(name) for name in ("data", "training")}
    names = [f.name for f in fields(ARGUMENTS.get(recipe.stage, DistillationArguments)) if f.init]
    sections["training"] = {name: sections["training"].get(name) for name in names}
    return content | {f"{name}.{key}": value for name, section in sections.items() for key, value in section.items()}


def check_teacher(recipe: Recipe) -> None:
    """Check that somebody teaches what a recipe distils.

    Raises:
        ValueError: without a teacher, where no file holds what it says either.
    """
    taught = sorted(ENGLISH_TERMS & recipe.loss_terms)
    if not taught or recipe.teacher:
        return
    settings = recipe.data
    if not (settings.scored_candidates or settings.query_tokens):
        raise ValueError(f"teacher: expected one for {', '.join(taught)}, got none. Name a checkpoint or `stage:NAME`.")
    check_scorer(recipe)


def check_scorer(recipe: Recipe) -> None:
    """Check that a teacher scores the candidates that relevance is distilled from.

    Raises:
        ValueError: where the scores would be those of the student's own start.
    """
    scored_by_nobody = [name for name in ("questions", "unlabelled_queries") if getattr(recipe.data, name)]
    if "relevance_kl" in recipe.loss_terms and scored_by_nobody and not recipe.teacher:
        raise ValueError(
            f"teacher: expected one that scores the candidates of {' and '.join(scored_by_nobody)} for relevance_kl, got none: "
            "the student would be its own teacher. Name one, or leave these sets out."
        )


@dataclass
class EvaluatedSystem:
    """One row of the table: a stage's model and what it reads.

    Args:
        label: of the row.
        stage: name of the stage whose model is measured.
        reads: column of the questions that is asked: `query`, or `english` for the teacher's upper bound.
        index: name of the stage whose model encodes the passages; default: the same. The teacher's, for a student that was
            distilled into the teacher's index.
    """

    label: str
    stage: str
    reads: str = "query"
    index: str | None = None


@dataclass
class Pipeline:
    """Stages, and what is measured after them.

    Args:
        output: folder of the whole run; each stage has a folder of its name in it.
        stages: names of the stages in order; each is the recipe `NAME.yaml` beside the pipeline's file.
        systems: the rows of the table; the first is the baseline of the paired comparison.
        student: the stage whose model is the result.
        test: the question sets that are measured on, by name.
        collection: what the passages are, for the table's note.
        card: facts for the model card that no run can know: licence, title, description of the data.
    """

    output: str
    stages: list[str]
    systems: list[EvaluatedSystem]
    student: str
    test: list[dict[str, Any]]
    collection: str
    card: dict[str, Any] = field(default_factory=dict)
    folder: Path = field(default_factory=Path, init=False)

    def __post_init__(self) -> None:
        """Check that rows and student name stages."""
        named = [self.student, *(stage for row in self.systems for stage in (row.stage, row.index or row.stage))]
        unknown = next((stage for stage in named if stage not in self.stages), None)
        if unknown is not None:
            raise ValueError(f"systems, student: expected one of the stages {', '.join(self.stages)}, got {unknown!r}.")
        labels = [row.label for row in self.systems]
        twice = next((label for label in labels if labels.count(label) > 1), None)
        if twice is not None:
            raise ValueError(f"systems: expected labels that differ, got {twice!r} twice. Name each row otherwise.")
        if not any(row.stage == self.student and row.reads == "query" for row in self.systems):
            raise ValueError(f"systems: expected a row for the student {self.student!r}. Add one that reads `query`.")

    @property
    def student_label(self) -> str:
        """The row that is the result: the first of the student that reads the questions as they were asked."""
        return next(row.label for row in self.systems if row.stage == self.student and row.reads == "query")
