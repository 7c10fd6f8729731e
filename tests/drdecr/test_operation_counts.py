"""What the stages around a training cost, counted and not timed: operation_counts.json holds what was counted before.

tests/trainers/test_operation_counts.py does the same for training steps. Where a change is meant to cost more, or saves
something, write what the failing test prints into the table, and say so in the change.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import PartialState
from torch import nn
from transformers import BartConfig, BartForConditionalGeneration, PreTrainedTokenizerFast

from drdecr.data.teacher import annotate as annotating
from drdecr.data.teacher import mine as mining
from drdecr.data.teacher import translate as translating
from drdecr.data.teacher.annotate import AnnotationSettings, annotate
from drdecr.data.teacher.mine import MiningSettings, mine
from drdecr.data.teacher.translate import TranslationSettings, translate
from drdecr.data.teacher.translators import Seq2SeqTranslator
from drdecr.modeling_drdecr import DrDecrModel, DrDecrTeacher
from drdecr.retrieval.build import build_index, compress_index, open_or_create_index
from drdecr.retrieval.encoder import load_teacher
from drdecr.retrieval.passages import Document, Splitter
from drdecr.retrieval.retriever import open_index
from drdecr.retrieval.stored import codecs
from drdecr.runs.recipe import Recipe
from drdecr.runs.validation import Validation

from ..counted_work import check_costs, costs_of, read_recorded  # noqa: TID252
from .conftest import LETTERS

RECORDED = read_recorded(__file__)
NUM_DOCUMENTS = 60


def role(model: nn.Module) -> str:
    """Whose pass it is: mining and annotating read with frozen models alone, so it is the checkpoint that tells."""
    if isinstance(model, DrDecrModel):
        return "teacher" if Path(model.name_or_path).name == "teacher" else "student"
    return "translator"


class Stages:
    """A stage by its name: what comes before it is made at once, and it is returned to be counted.

    Models are loaded before: what that costs is transformers' business.
    """

    def __init__(
        self, folder: Path, student: DrDecrModel, data: dict[str, dict[str, Any]], patch: pytest.MonkeyPatch
    ) -> None:
        self.folder, self.student, self.data, self.patch = folder, student, data, patch
        PartialState(cpu=True)
        torch.manual_seed(7)
        teacher = DrDecrTeacher(student.config)
        for parameter in teacher.parameters():
            nn.init.normal_(parameter, std=0.3)
        teacher.processor = student.processor
        self.readers: dict[str, Any] = {}
        for name, model in (("student", student), ("teacher", teacher)):
            model.save_pretrained(folder / name)
            self.readers[str(folder / name)] = load_teacher(str(folder / name))

    def encode(self) -> Callable[[], Any]:
        generator = np.random.default_rng(1)
        lengths = generator.integers(3, 40, NUM_DOCUMENTS)
        texts = [" ".join(generator.choice(list(LETTERS), length)) for length in lengths]
        documents = [Document(f"d{number}", text, "the king", {}) for number, text in enumerate(texts)]
        index = open_or_create_index(self.folder / "index", 16, {"model": "tiny"}, "float16", 1)
        return lambda: build_index(self.student, documents, index, Splitter(overlap=3), batch_size=8)

    def encode_again(self) -> Callable[[], Any]:
        self.encode()()
        return self.encode()

    def index(self) -> Callable[[], Any]:
        self.encode()()
        return lambda: compress_index(self.folder / "index", self.folder / "small", "residual4", 1)

    def search(self) -> Callable[[], Any]:
        self.encode()()
        return self.searching("index", "exact")

    def search_by_centroids(self) -> Callable[[], Any]:
        self.index()()
        return self.searching("small", "centroids")

    def searching(self, folder: str, by: str) -> Callable[[], Any]:
        index = open_index(self.folder / folder, by, num_candidates=10)
        questions = [f"z {letter} z" for letter in LETTERS[:8]]
        return lambda: index.search(self.student.encode_queries(questions), top_k=3)

    def mine(self) -> Callable[[], Any]:
        self.patch.setattr(mining, "load_encoder", self.readers.__getitem__)
        reader, teacher = self.readers
        settings = MiningSettings(
            questions=[self.data["train"]],
            method="model",
            reader=reader,
            teacher=teacher,
            num_negatives=2,
            max_share=1.0,
        )
        return lambda: mine(settings, self.folder / "mined")

    def annotate(self) -> Callable[[], Any]:
        self.mine()()
        self.patch.setattr(annotating, "load_teacher", lambda name, dtype: self.readers[name])
        settings = AnnotationSettings(
            rows=str(self.folder / "mined"), teacher=str(self.folder / "teacher"), batch_size=8
        )
        return lambda: annotate(settings, self.folder / "annotated")

    def translate(self) -> Callable[[], Any]:
        tokenizer: PreTrainedTokenizerFast = self.student.processor.tokenizer
        sizes = {"d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "encoder_layers": 1, "decoder_layers": 1}
        heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 64}
        tokens = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2}
        torch.manual_seed(3)
        model = BartForConditionalGeneration(BartConfig(vocab_size=64, **sizes, **heads, **tokens))
        model.generation_config.min_new_tokens = 6  # all that may be: where the end comes by itself hangs on a last bit
        model.save_pretrained(self.folder / "bart")
        tokenizer.save_pretrained(self.folder / "bart")
        translator = Seq2SeqTranslator(str(self.folder / "bart"), num_beams=2, max_new_tokens=6, batch_size=8)
        self.patch.setattr(translating, "make_translator", lambda entry: translator)
        settings = TranslationSettings(questions=[self.data["test"]], parallel=[self.data["parallel"]], model="bart")
        return lambda: translate(settings, self.folder / "translated")

    def validate(self, is_fixed: bool = False) -> Callable[[], Any]:
        sets = [self.data["train"], self.data["dev"]]
        recipe = Recipe("relevance", str(self.folder / "run"), "offline", validation=sets)
        recipe.data.cache_passages = is_fixed
        teacher = self.readers[str(self.folder / "teacher")]
        return lambda: Validation(recipe, teacher)(self.student)


STAGES: dict[str, Callable[[Stages], Callable[[], Any]]] = {
    "encode": Stages.encode,
    "encode, nothing new": Stages.encode_again,
    "index, residual codes": Stages.index,
    "search": Stages.search,
    "search, by centroids": Stages.search_by_centroids,
    "mine": Stages.mine,
    "annotate": Stages.annotate,
    "translate": Stages.translate,
    "validation": Stages.validate,
    "validation, teacher's index": lambda stages: stages.validate(is_fixed=True),
}


@pytest.fixture
def stages(
    tiny_model: DrDecrModel, data: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Stages:
    monkeypatch.setattr(codecs, "_scratch", codecs._Scratch())  # else it is there or not, as other tests ran before
    return Stages(tmp_path, tiny_model, data, monkeypatch)


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_costs_what_was_recorded(name: str, stages: Stages):
    check_costs(name, costs_of(STAGES[name](stages), role), RECORDED)


def test_a_stage_that_reads_twice_what_it_did_fails(stages: Stages):
    search = stages.search()
    with pytest.raises(AssertionError, match=r'"search": \{"student_passes": 2, "student_tokens": 96,'):
        check_costs("search", costs_of(lambda: [search(), search()], role), RECORDED)


def test_passes_are_counted_where_each_would_have_a_thread_and_torch_keeps_its_threads(stages: Stages):
    threads = torch.get_num_threads()
    encode = stages.encode()
    torch.set_num_threads(3)
    try:
        check_costs("encode", costs_of(encode, role), RECORDED)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)


def test_the_recorded_costs_are_those_of_the_texts(stages: Stages):
    assert set(RECORDED) == set(STAGES)
    process = stages.student.processor
    passage = process.process_documents(["the city b is in france."])["input_ids"].numel()
    query = process.process_queries(["what is the city b"])["input_ids"].numel()  # the longest: others are padded to it
    fixed, live = RECORDED["validation, teacher's index"], RECORDED["validation"]
    assert fixed["teacher_tokens"] == 2 * len(LETTERS) * passage
    assert fixed["student_tokens"] == 26 * query
    assert live["student_tokens"] == fixed["student_tokens"] + fixed["teacher_tokens"]
    assert live["teacher_passes"] == 0
    assert set(RECORDED["encode, nothing new"].values()) == {0}
    for name in ("index, residual codes", "search", "search, by centroids"):
        assert RECORDED[name]["teacher_passes"] == 0
    assert RECORDED["annotate"]["student_passes"] == 0
