"""The page in a browser: it answers, shows why, asks no other host, and survives what people type."""

import sys

import httpx
import numpy as np
import pytest
from matplotlib.image import imread

from drdecr.data.teacher import translate as translating
from drdecr.data.teacher.translation_store import Engine, Translation
from drdecr.data.teacher.translators import QueryTranslator
from drdecr.page import app as page
from drdecr.page.answers import EnglishQuestions, SampleQuestion, Searcher
from drdecr.page.app import answer_function, build_page, find_demo_models, import_gradio, serve_page

PASSAGES = {f"p-{letter}": f"the city {letter} is in france." for letter in "bcdef"}
EXAMPLES = [SampleQuestion("z c z", "what is the city c", "fi", ["p-c"]), SampleQuestion("من b", "b", "ar", ["p-b"])]


@pytest.fixture
def address(tiny_model):
    """A page over a tiny model that is served for one test."""
    pytest.importorskip("gradio", reason="needs the extra `page`")
    searcher, english = Searcher.over(tiny_model, PASSAGES), EnglishQuestions({row.query: row for row in EXAMPLES})
    page = build_page(answer_function(searcher, searcher, english), english, EXAMPLES)
    yield serve_page(page, "127.0.0.1", None, wait=False)
    page.close()


@pytest.mark.processes
def test_a_question_is_answered_in_a_browser_and_no_other_host_is_asked(address, browser, tmp_path):
    view = browser.new_page(viewport={"width": 390, "height": 844})
    requests, complaints = [], []
    view.on("request", lambda request: requests.append(request.url))
    view.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    view.on("pageerror", lambda error: complaints.append(str(error)))
    view.goto(address)
    view.wait_for_selector("[data-side=teacher] .found .token", timeout=60_000)  # the first example, as it opens
    view.locator("#question textarea").fill("من d")  # no sample question: its English is for people to write
    view.locator("#english textarea").fill("d")
    view.locator("#ask").click()
    view.wait_for_selector("[data-side=teacher] .asked:has-text('d')")
    assert view.locator("[data-side=student] .asked").inner_text() == "من d"
    assert view.locator("[data-side=student] .found .token").count() > 0
    direction = "element => getComputedStyle(element).direction"
    assert view.locator("[data-side=student] .asked").evaluate(direction) == "rtl"
    assert view.locator("[data-side=student] .found").first.evaluate(direction) == "ltr"
    display = "element => getComputedStyle(element).display"
    assert (
        view.locator("[data-side=student] .found").first.evaluate(display) == "block"
    )  # or its direction moves no text
    view.get_by_role("tab", name="Alignment").click()
    view.wait_for_selector(".heat td.pair", state="visible")
    assert view.locator(".heat tbody td").count() == 2 * 1
    view.get_by_role("tab", name="Passages").click()
    view.get_by_text("Suomi: z c z").click()  # an example brings its English and is asked at once
    view.wait_for_selector("[data-side=student] .right")
    assert view.locator("#english textarea").input_value() == "what is the city c"
    excess = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
    for tab in ("Passages", "Alignment"):
        view.get_by_role("tab", name=tab).click()
        assert view.evaluate(excess) <= 0, tab  # nothing sticks out of a phone
        # To look at: `pytest tests/drdecr/test_page.py --basetemp FOLDER`.
        view.screenshot(path=tmp_path / f"{tab}.png", full_page=True)
        picture = imread(tmp_path / f"{tab}.png")[..., :3].reshape(-1, 3)
        assert len(np.unique(picture, axis=0)) > 100  # letters and marks, not an empty page
    assert complaints == []
    foreign = [url for url in requests if not url.startswith((address, "data:", "blob:"))]
    assert foreign == []


def test_the_page_takes_no_files_and_no_foreign_names(address):
    for path in ("gradio_api/upload", "upload"):
        answer = httpx.post(f"{address}{path}", files={"files": ("a.bin", b"x" * 100)})
        assert answer.status_code == 404
    assert httpx.get(address, headers={"Host": "evil.example"}).status_code == 400
    assert httpx.get(address).status_code == 200


def test_whatever_is_typed_is_answered(tiny_model):
    searcher = Searcher.over(tiny_model, PASSAGES)
    answer = answer_function(searcher, searcher, EnglishQuestions({}))
    for text in ("", " \x00", "x" * 100_000, None):
        assert all('class="notice"' in html for html in answer(text, ""))
    for text in ("<script>alert(1)</script>", "😀😀", "من؟ \u202e b", "{{ 7 * 7 }} ${1}", "b " * 500, "\ud83d b"):
        passages, _ = answer(text, text)
        assert passages.count('class="passage"') == 6
        assert "<script>" not in passages


def test_a_page_without_examples_says_what_to_do(tiny_model):
    pytest.importorskip("gradio", reason="needs the extra `page`")
    blocks = build_page(lambda question, english: ("", ""), EnglishQuestions({}), [])
    values = {block.elem_id: block.value for block in blocks.blocks.values() if hasattr(block, "value")}
    assert all("Write a question" in values[name] for name in ("passages", "alignment"))


class Cities:
    """`z` is the city; what has an `x` it cannot translate, and of what has a `y` it says nothing."""

    def __init__(self) -> None:
        self.engine = Engine("cities", "1")

    def translate(self, texts, source, target="en"):
        if any("x" in text for text in texts):
            raise RuntimeError("cities failed")
        return [Translation("" if "y" in text else text.replace("z", "the city")) for text in texts]


@pytest.fixture
def translated() -> EnglishQuestions:
    """The English of the examples, and of other questions by `Cities`."""
    return EnglishQuestions({row.query: row for row in EXAMPLES}, QueryTranslator(Cities(), "fi"))


def test_english_that_is_left_empty_is_translated(tiny_model, translated):
    searcher = Searcher.over(tiny_model, PASSAGES)
    answer, by_hand = (
        answer_function(searcher, searcher, translated),
        answer_function(searcher, searcher, EnglishQuestions({})),
    )
    for english in ("", " ", "the city d"):
        passages, alignment = answer("z d", english)
        assert "translated by a machine" in passages
        assert alignment.split('class="heat"')[1:] == by_hand("z d", "the city d")[1].split('class="heat"')[1:]
    assert "translated by a machine" not in answer("z d", "a city")[0]  # a person wrote it
    assert "translated by a machine" not in answer("z c z", "")[0]  # a person's, of the sample
    for question, note in (("x d", "There is no translation: cities failed"), ("y d", "in English as well")):
        passages, alignment = answer(question, "")
        assert passages.count('class="passage"') == 3  # the student's
        assert note in alignment


def test_the_english_box_holds_the_english_questions_the_question_that_stands_beside_it(translated):
    assert translated.fill("z d", "") == "the city d"
    assert translated.fill("z d", "my own") == translated.fill("z c z", "my own") == "my own"
    assert [translated.fill("z e", old) for old in ("the city d", "what is the city c")] == ["the city e"] * 2
    assert [translated.fill(text, "") for text in ("x d", "", "b " * 5000)] == ["", "", ""]


@pytest.mark.processes
def test_a_translation_is_shown_in_its_box_and_replaced_with_the_next_question(tiny_model, translated, browser):
    pytest.importorskip("gradio", reason="needs the extra `page`")
    searcher = Searcher.over(tiny_model, PASSAGES)
    blocks = build_page(answer_function(searcher, searcher, translated), translated, EXAMPLES)
    try:
        view = browser.new_page()
        view.goto(serve_page(blocks, "127.0.0.1", None, wait=False))
        view.wait_for_selector("[data-side=teacher] .found .token", timeout=60_000)
        view.locator("#question textarea").fill("z d")
        view.locator("#ask").click()
        view.wait_for_selector("[data-side=teacher] .asked:has-text('the city d')")
        assert view.locator("#english textarea").input_value() == "the city d"
        view.locator("#question textarea").fill("z e")  # the translation of the question before is replaced
        view.locator("#question textarea").press("Enter")
        view.wait_for_selector("[data-side=teacher] .asked:has-text('the city e')")
    finally:
        blocks.close()


def test_the_page_is_given_the_translator_that_is_named(call, monkeypatch, tmp_path):
    class Built(Exception):
        pass

    def build(answer, english_questions, examples):
        raise Built(english_questions.find("z d"))

    monkeypatch.setitem(translating.ENGINES, "apertium", Cities)
    monkeypatch.setattr(page, "import_gradio", lambda: None)
    monkeypatch.setattr(page, "load_searchers", lambda sources: (None, None, {}))
    monkeypatch.setattr(page, "build_page", build)
    for options, english in ((["--translate-from", "fi", "--translator", "apertium"], "the city d"), ([], "")):
        with pytest.raises(Built) as built:
            call("page", "model", *options)
        assert built.value.args == (english,)
    code, _, errors = call("page", "model", "--translator", "apertium")
    assert code == 1
    assert "Name it: --translate-from fi" in errors


def test_a_demo_that_has_not_run_is_named_with_its_cure(call, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, _, errors = call("page")
    assert code == 1
    assert "drdecr demo" in errors
    assert len(errors.strip().splitlines()) == 1


def test_the_page_opens_on_what_the_demo_made(tmp_path):
    (tmp_path / "relevance" / "model").mkdir(parents=True)
    student, teacher = (str(tmp_path / stage / "model") for stage in ("relevance", "teacher"))
    assert find_demo_models(tmp_path, None) == (student, teacher)
    assert find_demo_models(tmp_path, "other") == (student, "other")


def test_without_gradio_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ImportError, match=r"drdecr\[page\]"):
        import_gradio()
