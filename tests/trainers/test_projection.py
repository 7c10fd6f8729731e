"""The projection before training: erased languages, kept directions, and a model that is otherwise left alone."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import ModernBertConfig

from drdecr.modeling_drdecr import DrDecrConfig, DrDecrModel, DrDecrProcessor
from drdecr.trainers.projection import (
    hidden_tokens,
    initialise_projection,
    language_eraser,
    last_norm,
    map_to_teacher,
    principal_projection,
)

TEXTS = {
    "en": ["the capital of france", "a river in the city", "where is the king", "paris is a city"],
    "xx": ["b c d e", "f g h i", "j k l m n", "o p q r"],
    "yy": ["s t u v", "w x y z", "t v x z b", "u w y"],
}


def languages(dim: int = 6, seed: int = 0, sizes: tuple[int, ...] = (40, 50, 60)) -> dict[str, Tensor]:
    """Tokens of several languages: one shape of cloud, an offset a language, sizes that differ."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    return {
        f"l{number}": torch.randn(size, dim, generator=generator, dtype=torch.float64) @ mix
        + 3 * torch.randn(dim, generator=generator, dtype=torch.float64)
        for number, size in enumerate(sizes)
    }


def centred(tokens: dict[str, Tensor]) -> dict[str, Tensor]:
    centre = torch.stack([matrix.mean(dim=0) for matrix in tokens.values()]).mean(dim=0)
    return {code: matrix - centre for code, matrix in tokens.items()}


def test_erasing_makes_all_means_equal():
    tokens = languages()
    eraser = language_eraser(tokens)
    means = torch.stack([(matrix @ eraser.T).mean(dim=0) for matrix in centred(tokens).values()])
    assert means.abs().max() < 1e-8
    before = torch.stack([matrix.mean(dim=0) for matrix in centred(tokens).values()])
    assert before.abs().max() > 1


def test_no_least_squares_classifier_tells_erased_languages_apart():
    tokens = languages(sizes=(50, 50, 50))

    def accuracy(matrices: list[Tensor]) -> float:
        features = np.concatenate([np.asarray(matrix) for matrix in matrices])
        features = np.concatenate([features, np.ones((len(features), 1))], axis=1)
        labels = np.repeat(np.arange(3), 50)
        weights = np.linalg.lstsq(features, np.eye(3)[labels], rcond=1e-8)[0]
        guesses = (features @ weights).round(6).argmax(axis=1)  # equal up to rounding is a tie, not a decision
        return float((guesses == labels).mean())

    eraser = language_eraser(tokens)
    assert accuracy([matrix @ eraser.T for matrix in centred(tokens).values()]) == pytest.approx(1 / 3)
    assert accuracy(list(centred(tokens).values())) > 0.8


def test_two_languages_in_two_dimensions_match_the_formula():
    """With one offset d, `I - W^+ P W` is `I - d d' S^-1 / (d' S^-1 d)`: the oblique projector along d."""
    tokens = languages(dim=2, seed=1, sizes=(30, 30))
    together = torch.cat(list(centred(tokens).values())).numpy()
    inverse = np.linalg.inv(together.T @ together / 60)
    offset = next(iter(centred(tokens).values())).mean(dim=0).numpy()[:, None]
    expected = np.eye(2) - offset @ offset.T @ inverse / (offset.T @ inverse @ offset)
    np.testing.assert_allclose(language_eraser(tokens, shrinkage=0.0).numpy(), expected, atol=1e-10)


def test_the_eraser_is_a_projector_of_one_rank_less_a_language_and_leaves_equal_languages_alone():
    eraser = language_eraser(languages())
    torch.testing.assert_close(eraser @ eraser, eraser)
    assert torch.linalg.matrix_rank(eraser, atol=1e-6) == 6 - 2
    same = languages(sizes=(40,))["l0"]
    torch.testing.assert_close(language_eraser({"a": same, "b": same}), torch.eye(6, dtype=torch.float64))


def test_fewer_tokens_than_dimensions_are_enough():
    eraser = language_eraser(languages(dim=12, sizes=(4, 4)))
    assert torch.isfinite(eraser).all()


def test_the_principal_projection_keeps_what_numpys_svd_keeps():
    tokens = languages(sizes=(40, 40, 40))
    together = torch.cat(list(centred(tokens).values()))
    found = principal_projection(tokens, 3)
    torch.testing.assert_close(found @ found.T, torch.eye(3, dtype=torch.float64))
    directions = np.linalg.svd(together.numpy())[2][:3]
    np.testing.assert_allclose(np.abs(directions @ found.numpy().T), np.eye(3), atol=1e-8)


def test_after_erasing_the_projection_keeps_no_language():
    tokens = languages()
    projection = principal_projection(tokens, 3, language_eraser(tokens))
    means = torch.stack([(matrix @ projection.T).mean(dim=0) for matrix in centred(tokens).values()])
    assert means.abs().max() < 1e-8


@pytest.mark.parametrize("method", ["pca", "language_neutral"])
def test_initialising_shifts_the_last_bias_by_the_mean_and_leaves_the_encoder_alone(
    method: str, tiny_model: DrDecrModel, tiny_processor: DrDecrProcessor
):
    before = copy.deepcopy(tiny_model.state_dict())
    groups = [hidden_tokens(tiny_model, tiny_processor.process_queries, texts) for texts in TEXTS.values()]
    groups.append(hidden_tokens(tiny_model, tiny_processor.process_documents, TEXTS["en"]))
    mean = torch.stack([group.mean(dim=0) for group in groups]).mean(dim=0)
    initialise_projection(tiny_model, tiny_processor, TEXTS, method)
    after = tiny_model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    bias = "bert.encoder.layer.1.output.LayerNorm.bias"
    assert changed == {bias, "linear.weight"}
    torch.testing.assert_close(after[bias], before[bias] - mean)


def test_the_neutral_projection_brings_the_languages_of_a_model_together(
    tiny_model: DrDecrModel, tiny_processor: DrDecrProcessor
):
    def distance() -> float:
        means = [
            hidden_tokens(tiny_model, tiny_processor.process_queries, texts).mean(dim=0) @ tiny_model.linear.weight.T
            for texts in TEXTS.values()
        ]
        return torch.stack(means).var(dim=0).sum().item()

    initialise_projection(tiny_model, tiny_processor, TEXTS, "pca")
    assert distance() > 1e-4
    initialise_projection(tiny_model, tiny_processor, TEXTS, "language_neutral")
    assert distance() < 1e-10


def test_random_changes_nothing_and_identity_compares_the_encoders_own_tokens(
    tiny_model: DrDecrModel, tiny_processor: DrDecrProcessor
):
    before = copy.deepcopy(tiny_model.state_dict())
    initialise_projection(tiny_model, tiny_processor, TEXTS, "random")
    assert all(torch.equal(before[name], tensor) for name, tensor in tiny_model.state_dict().items())
    with pytest.raises(ValueError, match="identity needs embedding_dim 32, the encoder's width, got 16"):
        initialise_projection(tiny_model, tiny_processor, TEXTS, "identity")
    wide = DrDecrModel(DrDecrConfig(encoder_config=tiny_model.config.encoder_config, embedding_dim=32)).eval()
    initialise_projection(wide, tiny_processor, {}, "identity")
    output = wide(**tiny_processor.process_queries(["the king"]))
    torch.testing.assert_close(output.embeddings, nn.functional.normalize(output.last_hidden_state, dim=-1))


def test_bad_input_is_refused_in_words(tiny_model: DrDecrModel, tiny_processor: DrDecrProcessor):
    with pytest.raises(ValueError, match="told apart only where there are two, got 1"):
        language_eraser(languages(sizes=(10,)))
    with pytest.raises(ValueError, match="expected at most the encoder's 6 dimensions, got 7"):
        principal_projection(languages(), 7)
    with pytest.raises(ValueError, match="expected one of random, identity, pca, language_neutral, got 'whiten'"):
        initialise_projection(tiny_model, tiny_processor, TEXTS, "whiten")
    with pytest.raises(ValueError, match="'en' among them, got xx"):
        initialise_projection(tiny_model, tiny_processor, {"xx": ["b"]})


def test_an_encoder_whose_last_norm_has_no_bias_is_refused(tiny_processor: DrDecrProcessor):
    encoder = ModernBertConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        cls_token_id=0,
        sep_token_id=2,
    )
    model = DrDecrModel(DrDecrConfig(encoder_config=encoder, embedding_dim=16)).eval()
    with pytest.raises(ValueError, match="does not end in a LayerNorm with a bias"):
        last_norm(model, tiny_processor)


@pytest.mark.parametrize("width", [16, 24])
def test_a_student_is_mapped_onto_a_teacher_that_is_its_own_rotation(
    width: int, still_model: DrDecrModel, tiny_processor: DrDecrProcessor
):
    generator = torch.Generator().manual_seed(1)
    rotation = torch.linalg.qr(torch.randn(width, 16, generator=generator))[0]  # (width, 16), orthonormal columns
    config = DrDecrConfig(encoder_config=still_model.config.encoder_config, embedding_dim=width)
    teacher = DrDecrModel(config).eval()
    teacher.encoder.load_state_dict(still_model.encoder.state_dict())
    teacher.linear.weight.data = rotation @ still_model.linear.weight.data
    # Other markers and lengths: what stands for the same characters belongs together.
    teacher.processor = DrDecrProcessor(tiny_processor.tokenizer, query_length=9, document_length=20)
    texts, length = [text for texts in TEXTS.values() for text in texts], still_model.processor.query_length
    still_model.processor.query_marker = still_model.processor.document_marker = None
    before = still_model.score(still_model.encode_queries(texts), still_model.encode_documents(texts))
    assert map_to_teacher(still_model, teacher, texts) == pytest.approx(1.0, abs=1e-5)
    assert (still_model.config.embedding_dim, still_model.linear.weight.shape[0], length) == (width, width, 12)
    for ours, theirs in zip(still_model.encode_queries(texts), teacher.encode_queries(texts), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    after = still_model.score(still_model.encode_queries(texts), still_model.encode_documents(texts))
    torch.testing.assert_close(after, before, rtol=0, atol=1e-4)


def test_no_orthogonal_map_brings_the_pairs_closer(tiny_model: DrDecrModel, teacher: DrDecrModel):
    student = copy.deepcopy(tiny_model)
    reached = map_to_teacher(student, teacher, TEXTS["en"])

    def text_tokens(model: DrDecrModel) -> Tensor:
        slots = (model.processor.process_queries(TEXTS["en"]), model.processor.process_documents(TEXTS["en"]))
        return torch.cat([model(**batch).embeddings[batch["text_mask"]] for batch in slots]).detach()

    ours, theirs = text_tokens(student), text_tokens(teacher)

    def mean_cosine(turn: Tensor) -> float:
        return (ours @ turn.T * theirs).sum(dim=1).mean().item()

    generator = torch.Generator().manual_seed(0)
    skew = torch.randn(20, 16, 16, generator=generator) * 0.05
    turns = torch.linalg.matrix_exp(skew - skew.transpose(1, 2))
    assert mean_cosine(torch.eye(16)) == pytest.approx(reached, abs=1e-5)
    assert max(map(mean_cosine, turns)) < reached
    with pytest.raises(ValueError, match="map_to_teacher: expected English texts"):
        map_to_teacher(student, teacher, [])
