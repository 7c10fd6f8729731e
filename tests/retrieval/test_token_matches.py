"""The terms of a MaxSim score, against plain loops; and where tokens stand in a text."""

import pytest
import torch

from drdecr.modeling_drdecr import DrDecrProcessor
from drdecr.retrieval import ExactIndex
from drdecr.retrieval.token_matches import Piece, cut_text, match_tokens, read_passages, read_query

PASSAGES = ["the city b is in france.", "paris!", "a river, the sea! x and a king"]


def unit(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(count, 8, generator=generator), dim=-1)


def test_each_query_token_has_its_best_passage_token():
    query, passage = unit(6, seed=0), unit(9, seed=1)
    matches = match_tokens(query, passage)
    for number, row in enumerate(query.tolist()):
        cosines = [sum(a * b for a, b in zip(row, other, strict=True)) for other in passage.tolist()]
        assert matches.cosines[number] == pytest.approx(max(cosines), abs=1e-6)
        assert matches.tokens[number] == cosines.index(max(cosines))
    for token, queries in enumerate(matches.queries_of(9)):
        assert queries == [number for number in range(6) if matches.tokens[number] == token]


def test_the_terms_sum_to_the_score_of_the_search(tiny_model):
    query, passages = read_query(tiny_model, "what is the city b?"), read_passages(tiny_model, PASSAGES)
    index = ExactIndex(["0", "1", "2"], tiny_model.encode_documents(PASSAGES))
    hits = index.search([query.embeddings], top_k=3)
    for name, score in zip(hits.document_ids[0], hits.scores[0], strict=True):
        matches = match_tokens(query.embeddings, passages[int(name)].embeddings)
        assert sum(matches.cosines) == pytest.approx(score, abs=1e-4)


def test_a_passage_without_tokens_scores_as_in_the_search():
    matches = match_tokens(unit(2, seed=0), torch.empty(0, 8))
    assert (matches.tokens, matches.cosines) == ([-1, -1], [-1.0, -1.0])
    assert matches.queries_of(0) == []


@pytest.mark.parametrize("shapes", [((1, 3, 8), (4, 8)), ((3, 8), (4, 7))])
def test_embeddings_that_do_not_belong_together_are_refused(shapes):
    with pytest.raises(ValueError, match="from one model"):
        match_tokens(*(torch.zeros(shape) for shape in shapes))


def test_a_token_stands_where_its_characters_are(tiny_model):
    query = read_query(tiny_model, "the  king, of b")
    words = [query.text[slice(*span)] if span else None for span in query.spans]
    assert words == [None, None, "the", "king", ",", "of", "b", None]  # <s> [Q] ... </s> score here
    assert len(query.spans) == len(query.embeddings)
    assert query.in_text.tolist() == [word is not None for word in words]
    passage = read_passages(tiny_model, PASSAGES)[2]
    words = [passage.text[slice(*span)] for span in passage.spans if span]
    assert words == ["a", "river", "the", "sea", "x", "and", "a", "king"]  # punctuation does not score
    assert len(passage.spans) == len(passage.embeddings)
    assert read_passages(tiny_model, []) == []


def test_a_prefix_moves_no_token(tiny_model, tiny_tokenizer):
    tiny_model.processor = DrDecrProcessor(
        tiny_tokenizer, document_length=24, query_prefix="what: ", score_special_tokens=False
    )
    query = read_query(tiny_model, "king of b")
    assert [query.text[slice(*span)] for span in query.spans if span] == ["king", "of", "b"]
    assert len(query.spans) == len(query.embeddings) == 3


def test_expansion_tokens_stand_for_nothing(tiny_model, tiny_tokenizer):
    tiny_model.processor = DrDecrProcessor(tiny_tokenizer, query_length=10, document_length=24, query_expansion="mask")
    query = read_query(tiny_model, "king of b")
    assert [bool(span) for span in query.spans] == [False, True, True, True, *[False] * 6]
    assert len(query.embeddings) == 10


def test_a_text_that_is_cut_says_so(tiny_model):
    assert read_query(tiny_model, "b " * 50).is_cut
    assert not read_query(tiny_model, "b b  ").is_cut


def test_pieces_are_the_text_and_hold_each_characters_tokens():
    text, spans = "abc d ef", [None, (0, 2), (1, 3), (3, 5), (6, 8), (6, 7)]  # overlapping, shared, with a space
    pieces = cut_text(text, spans)
    assert "".join(piece.characters for piece in pieces) == text
    tokens = [piece.tokens for piece in pieces for _ in piece.characters]
    for place, character in enumerate(text):
        owners = [number for number, span in enumerate(spans) if span and span[0] <= place < span[1]]
        assert tokens[place] == (() if character == " " else tuple(owners))
    assert cut_text("", [None]) == []


def test_a_combining_sign_stays_with_its_letter():
    text = "শি্x"  # a letter, a vowel sign and a virama, each a token; then a letter
    assert cut_text(text, [(0, 1), (1, 2), (2, 3), (3, 4)]) == [Piece(text[:3], (0, 1, 2)), Piece("x", (3,))]
