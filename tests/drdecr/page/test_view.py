"""How answers are drawn: every text and number is there, and no text becomes markup."""

import re
from html import unescape

import pytest

from drdecr.page.answers import SampleQuestion, Searcher, answer_question
from drdecr.page.view import show_alignment, show_answer, show_notice, token_labels
from drdecr.retrieval import StoredIndex

PASSAGES = {"p1": "the city b is in france.", "p2": "a <b>king</b> & the sea"}
KNOWN = SampleQuestion("z b z", "the city b", "xx", ["p1"])


@pytest.fixture
def answer(tiny_model):
    searcher = Searcher.over(tiny_model, PASSAGES)
    return answer_question(searcher, searcher, KNOWN.query, KNOWN.english, KNOWN)


def text_of(html: str) -> str:
    return unescape(re.sub(r"<[^>]*>", "", html))


def test_texts_stay_whole_and_markup_in_them_stays_text(answer):
    html = show_answer(answer, KNOWN, same_model=False)
    for text in (*PASSAGES.values(), KNOWN.query, KNOWN.english):
        assert text in text_of(html)
    assert "<b>king" not in html
    assert "✓" in html
    assert ("Teacher" in html, "The same model" in html) == (True, False)
    assert "The same model" in show_answer(answer, KNOWN, same_model=True)
    assert "<script>" not in show_notice("<script>")


def test_a_passages_colours_are_its_matches(answer):
    found = answer.student.passages[0]
    html = show_answer(answer, KNOWN, same_model=False).split('<p class="found"')[1].split("</p>")[0]
    coloured = re.findall(r'<span class="token" style="--strength:([\d.]+)" title="[^"]*">([^<]*)</span>', html)
    values = [value for passage in answer.student.passages for value in passage.matches.cosines]
    expected = {}
    for token, cosine in zip(found.matches.tokens, found.matches.cosines, strict=True):
        span = found.tokens.spans[token]
        if span is not None:
            expected[span] = max(expected.get(span, -1.0), cosine)
    assert expected
    assert len(coloured) == len(expected)
    for (strength, characters), span in zip(coloured, sorted(expected), strict=True):
        cosine = expected[span]
        assert float(strength) == pytest.approx((cosine - min(values)) / (max(values) - min(values)), abs=1e-3)
        assert characters == found.tokens.text[slice(*span)]


def test_what_a_model_does_not_read_is_grey_and_said_so(tiny_model):
    searcher = Searcher.over(tiny_model, {"p": "the city. " * 30, "q": "the sea."})
    answer = answer_question(searcher, searcher, "sea", "the city " * 20, None)
    (note,) = answer.notes
    assert note.startswith("The English is longer")
    student, teacher = show_answer(answer, None, same_model=True).split('data-side="teacher"')
    grey = re.findall('<span class="unread">([^<]*)</span>', student)
    assert len("".join(grey)) > 200  # the long passage's end, and nothing of the short one
    assert "sea" not in "".join(grey)
    assert "city" in re.search('<span class="unread">([^<]*)</span>', teacher)[1]


def test_an_empty_index_says_so(tiny_model, tmp_path):
    StoredIndex.create(tmp_path / "index", 16).close()
    searcher = Searcher(tiny_model, StoredIndex.open(tmp_path / "index"))
    html = show_answer(answer_question(searcher, searcher, "the sea", "", None), None, same_model=True)
    assert "the index holds no passages" in html
    assert "do not compare" not in html  # there is one column


def test_the_heat_map_holds_every_cosine_and_frames_the_pairs(answer):
    html = show_alignment(answer.alignment, [])
    cells = re.findall(r'<td class="(pair)?" [^>]*>(-?[\d.]+)</td>', html)
    flat = [(row, column) for row in range(3) for column in range(3)]
    assert [cell[1] for cell in cells] == [f"{answer.alignment.cosines[row][column]:.2f}" for row, column in flat]
    framed = [place for place, cell in zip(flat, cells, strict=True) if cell[0]]
    assert framed == [(row, partner) for row, partner in enumerate(answer.alignment.partners)]
    assert token_labels(answer.alignment.teacher) == ["the", "city", "b"]
    assert "why not" in show_alignment(None, ["why not"])
