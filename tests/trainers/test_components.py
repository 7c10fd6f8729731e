"""Student, teacher and collator: loaded by name, fitted to each other, and refused where they cannot go together."""

import copy
import json
import logging

import pytest
import torch
from peft import LoraConfig, PeftModel
from tokenizers import Tokenizer

from drdecr.data.collators import DistillationCollator
from drdecr.data.embeddings.cache import TokenCache
from drdecr.modeling_drdecr import DrDecrConfig, DrDecrModel, DrDecrProcessor, DrDecrTeacher
from drdecr.trainers import (
    AdaptersOffTeacher,
    DistillationTrainer,
    LoraSettings,
    RelevanceDistillationTrainer,
    RepresentationDistillationTrainer,
    add_adapter,
)


@pytest.fixture(autouse=True)
def transformers_logs(monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)


@pytest.fixture
def other_processor(tiny_processor):
    """The same words under other ids, other markers and lengths."""
    backend = json.loads(tiny_processor.tokenizer.backend_tokenizer.to_str())
    vocabulary = backend["model"]["vocab"]
    vocabulary["city"], vocabulary["river"] = vocabulary["river"], vocabulary["city"]
    tokenizer = copy.deepcopy(tiny_processor.tokenizer)
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(backend))
    return DrDecrProcessor(tokenizer, query_marker="[D]", query_length=9, document_length=20)


@pytest.fixture
def wide_teacher(tiny_model):
    """A teacher of 24 dimensions for a student of 16."""
    torch.manual_seed(3)
    teacher = DrDecrTeacher(DrDecrConfig(encoder_config=tiny_model.config.encoder_config, embedding_dim=24))
    teacher.processor = tiny_model.processor
    return teacher


def own_scores(teacher, row, passages):
    documents = teacher.encode_documents([passages[name] for name in row["document_ids"]])
    return teacher.score(teacher.encode_queries([row["english"]]), documents)[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_student_saved_in_half_precision_is_trained_as_one_in_float32(
    dtype, tiny_model, teacher, candidate_rows, passages, build, tmp_path, caplog
):
    tiny_model.to(dtype).save_pretrained(tmp_path / "half")
    student = DrDecrModel.from_pretrained(tmp_path / "half")
    before = {name: weight.detach().float() for name, weight in student.named_parameters()}
    settings = {"teacher": teacher, "passages": passages, "max_steps": 4, "learning_rate": 6e-6}
    build(RelevanceDistillationTrainer, student, candidate_rows, **settings).train()
    steps = {name: (weight - before[name]).abs() for name, weight in student.named_parameters()}
    assert {weight.dtype for weight in student.parameters()} == {torch.float32}
    assert max(step.max().item() for step in steps.values()) < 4.1 * 6e-6
    assert sum((step > 0).sum().item() for step in steps.values()) > 0.5 * student.num_parameters()
    assert f"came in {str(dtype)[6:]}" in caplog.text


def test_an_adapter_over_half_precision_is_trained_in_float32_and_its_base_stays(tiny_model, teacher, build):
    model = add_adapter(tiny_model.bfloat16(), LoraSettings(rank=2))
    build(RelevanceDistillationTrainer, model, [], teacher=teacher)
    assert {weight.dtype for weight in model.parameters() if weight.requires_grad} == {torch.float32}
    assert model.get_input_embeddings().weight.dtype == torch.bfloat16


@pytest.mark.parametrize("made_here", [True, False])
def test_a_teacher_with_another_tokenizer_is_read_with_its_own(
    made_here, still_model, teacher, other_processor, candidate_rows, collate, passages, build
):
    teacher.processor = other_processor
    given = {"passages": passages} if made_here else {"collator": collate}
    trainer = build(RelevanceDistillationTrainer, still_model, candidate_rows, teacher=teacher, **given)
    scores = trainer._teacher_scores(trainer.data_collator(candidate_rows[:4]))
    for row, ours in zip(candidate_rows[:4], scores, strict=True):
        torch.testing.assert_close(ours, own_scores(teacher, row, passages))
    assert collate.teacher_processor is still_model.processor  # what was given stays as it was


def test_a_collator_that_reads_for_another_teacher_is_refused(tiny_model, teacher, other_processor, passages, build):
    collate = DistillationCollator(tiny_model.processor, passages, teacher_processor=other_processor)
    with pytest.raises(ValueError, match=r"data_collator: .*Pass `teacher_processor=teacher.processor`"):
        build(RelevanceDistillationTrainer, tiny_model, [], collate, teacher=teacher)
    with pytest.raises(ValueError, match="passages: expected none beside a collator"):
        build(RelevanceDistillationTrainer, tiny_model, [], collate, passages=passages)


def test_a_made_collator_has_what_the_terms_need(tiny_model, teacher, parallel_rows, build):
    trainer = build(RepresentationDistillationTrainer, tiny_model, parallel_rows, teacher=teacher)
    assert set(trainer.data_collator(parallel_rows[:2])) == {"query", "teacher_query", "anchor"}


@pytest.mark.parametrize("relevance_over", ["row", "batch"])
def test_scores_are_learnt_from_a_teacher_of_another_width(
    relevance_over, still_model, wide_teacher, candidate_rows, passages, build
):
    settings = {"relevance_over": relevance_over, "temperature": 0.5}
    trainer = build(
        RelevanceDistillationTrainer,
        still_model,
        candidate_rows,
        teacher=wide_teacher,
        passages=passages,
        **settings,
    )
    rows = candidate_rows[:4]
    names = dict.fromkeys(name for row in rows for name in row["document_ids"])
    expected = 0.0
    for row in rows:
        ids = row["document_ids"] if relevance_over == "row" else list(names)
        shares = [
            own_scores(model, {"english": row[column], "document_ids": ids}, passages).div(0.5).log_softmax(dim=0)
            for model, column in ((still_model, "query"), (wide_teacher, "english"))
        ]
        expected += 0.25 * (shares[1].exp() * (shares[1] - shares[0])).sum().item() / 4
    batch = trainer.data_collator(rows)
    assert trainer.compute_loss(still_model, batch).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("compared", ["token_weight", "anchor_weight", "document_cache"])
def test_a_teacher_of_another_width_is_refused_where_tokens_are_compared(
    compared, tiny_model, wide_teacher, passages, build
):
    cache = TokenCache.of_documents(wide_teacher, passages) if compared == "document_cache" else None
    collate = DistillationCollator(tiny_model.processor, passages, document_cache=cache)
    settings = {"relevance_weight": 1.0} if cache else {compared: 1.0}
    with pytest.raises(ValueError, match="got embedding_dim 16 and 24"):
        build(DistillationTrainer, tiny_model, [], collate, teacher=wide_teacher, **settings)


def test_tokens_of_a_teacher_of_another_width_are_learnt_in_its_space(
    still_model, wide_teacher, parallel_rows, build, tmp_path
):
    settings = {"map_to_teacher": True, "anchor_weight": 0.0, "max_steps": 8, "save_strategy": "steps", "save_steps": 8}
    trainer = build(RepresentationDistillationTrainer, still_model, parallel_rows[:8], teacher=wide_teacher, **settings)
    assert trainer.model.config.embedding_dim == 24
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert losses[-1] < 0.9 * losses[0]
    saved = DrDecrModel.from_pretrained(tmp_path / "run" / "checkpoint-8")
    assert torch.equal(saved.linear.weight, trainer.model.linear.weight)
    with pytest.raises(ValueError, match="map_to_teacher: expected a whole student and a teacher"):
        build(DistillationTrainer, still_model, [], token_weight=1.0, map_to_teacher=True)


@pytest.mark.parametrize("other", ["vocabulary", "marker"])
def test_the_anchor_refuses_a_teacher_that_reads_other_tokens(other, tiny_model, teacher, other_processor, build):
    # As many tokens as the student has and the same shapes: only what they stand for is different.
    teacher.processor = other_processor
    if other == "marker":
        teacher.processor = copy.deepcopy(tiny_model.processor)
        teacher.processor.document_marker = "[Q]"
    message = "vocabularies of" if other == "vocabulary" else "one vocabulary, but"
    with pytest.raises(ValueError, match=f"english_anchor compares token with token.*{message}.*`anchor_weight` to 0"):
        build(RepresentationDistillationTrainer, tiny_model, [], teacher=teacher)
    build(RepresentationDistillationTrainer, tiny_model, [], teacher=teacher, anchor_weight=0.0)


def test_special_tokens_that_do_not_score_are_not_aligned(tiny_model, teacher, build):
    tiny_model.processor.score_special_tokens = False  # then no embeddings are kept of them
    settings = {"token_weight": 1.0, "align_special_tokens": True}
    with pytest.raises(ValueError, match=r"align_special_tokens: .*score_special_tokens: false"):
        build(DistillationTrainer, tiny_model, [], teacher=teacher, **settings)


@pytest.mark.parametrize("adapted", [False, True])
def test_a_student_does_not_teach_itself(adapted, tiny_model, build):
    student = add_adapter(tiny_model) if adapted else tiny_model
    with pytest.raises(ValueError, match=r"teacher: expected another model than the student.*AdaptersOffTeacher"):
        build(RelevanceDistillationTrainer, student, [], teacher=tiny_model)
    assert adapted or all(weight.requires_grad for weight in tiny_model.parameters())


def test_any_model_given_as_teacher_is_frozen_and_read_without_dropout(tiny_model, candidate_rows, collate, build):
    other = copy.deepcopy(tiny_model).train()
    before = copy.deepcopy(other.state_dict())
    build(RelevanceDistillationTrainer, tiny_model, candidate_rows, collate, teacher=other, max_steps=1).train()
    assert not other.training
    assert not any(weight.requires_grad for weight in other.parameters())
    assert all(torch.equal(weight, before[name]) for name, weight in other.state_dict().items())


def test_student_and_teacher_are_loaded_by_name_with_their_settings(folder, candidate_rows, passages, build):
    trainer = build(
        RelevanceDistillationTrainer,
        str(folder / "student"),
        candidate_rows,
        teacher=str(folder / "teacher"),
        passages=passages,
        model_init_kwargs={"attn_implementation": "eager", "hidden_dropout_prob": 0.0},
        teacher_model_init_kwargs='{"attn_implementation": "eager"}',
    )
    trainer.train()
    assert isinstance(trainer.teacher, DrDecrTeacher)
    assert trainer.model.config.encoder_config.hidden_dropout_prob == 0
    for model in (trainer.model, trainer.teacher):
        assert model.encoder.config._attn_implementation == "eager"
        assert model.dtype == torch.float32


@pytest.mark.parametrize("side", ["model", "teacher_model"])
def test_settings_of_a_load_that_is_done_already_are_refused(side, tiny_model, teacher, build):
    with pytest.raises(ValueError, match=f"{side}_init_kwargs: expected the name"):
        build(
            RelevanceDistillationTrainer, tiny_model, [], teacher=teacher, **{f"{side}_init_kwargs": {"dtype": "auto"}}
        )


def test_a_processor_takes_the_place_of_the_students(tiny_model, other_processor, parallel_rows, build, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 1, "max_steps": 1, "teacher": copy.deepcopy(tiny_model)}
    trainer = build(
        DistillationTrainer, tiny_model, parallel_rows, processing_class=other_processor, token_weight=1.0, **settings
    )
    trainer.train()
    saved = DrDecrModel.from_pretrained(tmp_path / "run" / "checkpoint-1").processor
    texts = ["the city of paris"]
    assert torch.equal(saved.process_queries(texts)["input_ids"], other_processor.process_queries(texts)["input_ids"])
    with pytest.raises(
        ValueError, match=r"processing_class: expected a DrDecrProcessor.*`DrDecrProcessor\(tokenizer\)`"
    ):
        build(DistillationTrainer, tiny_model, [], processing_class=other_processor.tokenizer, token_weight=1.0)


def test_a_configuration_of_peft_makes_an_adapter_whose_backbone_teaches(still_model, candidate_rows, passages, build):
    expected = copy.deepcopy(still_model)
    trainer = build(
        RelevanceDistillationTrainer,
        still_model,
        candidate_rows,
        passages=passages,
        peft_config=LoraConfig(r=2, lora_dropout=0.0),
        learning_rate=0.05,
        temperature=0.1,
    )
    trainer.train()
    assert isinstance(trainer.model, PeftModel)
    assert isinstance(trainer.teacher, AdaptersOffTeacher)
    trained = {name for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    assert trained
    assert all(".lora_" in name for name in trained)
    scores = trainer._teacher_scores(trainer.data_collator(candidate_rows[:1]))[0]
    torch.testing.assert_close(scores, own_scores(expected, candidate_rows[0], passages))


def test_a_backbone_teaches_in_its_own_precision_beside_a_student_in_bfloat16(
    tiny_model, parallel_rows, collate, build
):
    student = add_adapter(copy.deepcopy(tiny_model), LoraSettings(rank=2))
    teacher = AdaptersOffTeacher(student)
    settings = {"token_weight": 1.0, "bf16": True, "max_steps": 1}
    trainer = build(DistillationTrainer, student, parallel_rows, collate, teacher=teacher, **settings)
    trainer.train()  # from here on the student computes under autocast
    read, mask = trainer._teacher_question(collate(parallel_rows[:4]))
    expected = tiny_model.encode_queries([row["english"] for row in parallel_rows[:4]])
    torch.testing.assert_close(read[mask], torch.cat(expected))


def test_one_process_trains_on_one_device(tiny_model, build):
    trainer = build(DistillationTrainer, tiny_model, [], contrastive_weight=1.0)
    trainer.args._n_gpu = 4  # what the Trainer finds on a machine with four, and would spread a batch over
    assert (trainer.args.n_gpu, trainer.args.train_batch_size) == (1, 8)


def test_processes_that_do_not_find_each_other_train_nothing(tiny_model, build, monkeypatch):
    monkeypatch.setattr("drdecr.data.shards.num_launched", lambda: 2)
    with pytest.raises(ValueError, match="Expected 2 processes that work together"):
        build(DistillationTrainer, tiny_model, [], contrastive_weight=1.0)
