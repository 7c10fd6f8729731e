"""`drdecr page`: a page in the browser that asks a student and its teacher, and shows why a passage was found.

Layout and events alone: what is computed stands in page_answers.py, how it is drawn in page_view.py.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from drdecr.data.corpus import read_passages
from drdecr.data.offline.sample import read_sample_questions
from drdecr.data.teacher.translators import load_query_translator
from drdecr.retrieval.encoder import load_encoder

from .answers import EnglishOf, KnownQuestion, Searcher, ask, sample_examples, sample_known
from .index import kept_index, open_page_index
from .view import LANGUAGE_NAMES, show_alignment, show_answer, show_notice, style_sheet

if TYPE_CHECKING:
    import gradio

Answering = Callable[[str, str], tuple[str, str]]
"""Question and English to the HTML of the passages and of the alignment."""

DEMO = Path("runs/demo")

INTRODUCTION = (
    "<h1>Ask in any language, read in English</h1><p class='lead'>The student reads the question as it was asked, the teacher "
    "reads its English. What each of their tokens matched in a passage is coloured.</p>"
)
ENGLISH = "The same in English, for the teacher"
TRANSLATED = "The English was translated by a machine. Correct it in its box, and ask again, where it is wrong."
TAKE_UP = "(question, english, [asked, stood, found]) => question === asked && english === stood ? found : english"
"""In the browser, when the English of a question arrives: what was typed meanwhile stays."""
NOTHING_ASKED = (
    "Nothing has been asked yet. Write a question in any language and, for the teacher, its English; then press Ask."
)
MOST_LINES = 4
"""Of a box, which else grows until what was found is out of sight."""


@dataclass(frozen=True)
class PageSources:
    """What the page is over.

    Args:
        model: the student, a checkpoint folder or Hub name; None: what `drdecr demo` made.
        teacher: the same for the teacher; default: the demo's, or the student reads the English too.
        passages: JSON Lines, encoded the first time that the page opens; default: the sample data.
        index: or: an index that the student encoded.
        teacher_index: and one that the teacher did.
        translate_from: language of the questions whose English is left empty, to be translated.
        translator: what translates them (`first_step.open_first_step`).

    Raises:
        ValueError: for an index beside passages, or one for one of two models alone.
    """

    model: str | None = None
    teacher: str | None = None
    passages: Path | None = None
    index: Path | None = None
    teacher_index: Path | None = None
    translate_from: str | None = None
    translator: str | None = None

    def __post_init__(self) -> None:
        """Check what can be checked without models."""
        if self.index and self.passages:
            raise ValueError("--index holds passages already. Leave --passages out.")
        if self.index and self.model is None:
            raise ValueError("--index: expected the model that encoded it. Name it: drdecr page MODEL --index FOLDER.")
        if self.teacher_index and not (self.index and self.teacher):
            raise ValueError("--teacher-index belongs to --teacher and stands beside --index. Give all three.")
        if self.index and self.teacher and self.teacher != self.model and not self.teacher_index:
            raise ValueError(
                "--index: expected an index of the teacher's as well. Make it (drdecr encode TEACHER DOCUMENTS FOLDER) and "
                "name it: --teacher-index FOLDER."
            )


def run_page(sources: PageSources, host: str, port: int | None) -> None:
    """Serve the page until the process is stopped; without a model, over what `drdecr demo` made.

    Raises:
        FileNotFoundError: if the demo has not run.
        ImportError: without the extra `page`, or for a translator that is not installed.
    """
    first = load_query_translator(sources.translate_from, sources.translator)
    if sources.model is None:
        model, teacher = from_demo(DEMO, sources.teacher)
        sources = replace(sources, model=model, teacher=teacher)
    import_gradio()  # said before models are loaded
    student, other, known = load_searchers(sources)
    english = EnglishOf(known, first)
    page = build_page(answering(student, other, english), english, sample_examples() if known else [])
    serve_page(page, host, port)


def from_demo(run: Path, teacher: str | None) -> tuple[str, str]:
    """Return the demo's student, and its teacher where no other is given.

    Raises:
        FileNotFoundError: if the demo has not trained its student.
    """
    student = run / "relevance" / "model"
    if not student.is_dir():
        raise FileNotFoundError(
            f"{student}: expected the student that `drdecr demo` trains. Run `drdecr demo` (or `make demo`) first, or name a "
            "checkpoint: drdecr page MODEL."
        )
    return str(student), teacher or str(run / "teacher" / "model")


def load_searchers(sources: PageSources) -> tuple[Searcher, Searcher, Mapping[str, KnownQuestion]]:
    """Load both models and open their indexes, which are made where there is none.

    Returns:
        Student, teacher, and the sample's questions by their text; no questions for passages of one's own.
    """
    model, teacher = str(sources.model), sources.teacher
    student = _searcher(model, sources, sources.index)
    other = _searcher(teacher, sources, sources.teacher_index) if teacher and teacher != model else student
    return student, other, {} if sources.passages or sources.index else sample_known()


def _searcher(name: str, sources: PageSources, folder: Path | None) -> Searcher:
    model = load_encoder(name)
    if folder is not None:
        return Searcher(model, open_page_index(folder, model))
    own = sources.passages
    collection = read_passages(str(own)) if own else read_sample_questions("test").passages
    return Searcher(model, kept_index(model, collection, str(own.resolve()) if own else "sample"))


def answering(student: Searcher, teacher: Searcher, english_of: EnglishOf) -> Answering:
    """Return the function behind the button: it answers whatever is typed, if need be with a plain message."""

    def answer(question: str, english: str) -> tuple[str, str]:
        question, english = question or "", english or ""  # a client of the API may send nothing
        sample = english_of.known.get(question.strip())
        notes = []
        try:
            english = english if english.strip() else english_of(question)
        except Exception as error:  # noqa: BLE001  # of the translator: the student answers, and the note says why alone
            notes.append(f"There is no translation: {error}")
        try:
            found = ask(student, teacher, question, english, sample)
        except ValueError as error:
            return show_notice(str(error)), show_notice(str(error))
        if english_of.is_translation(english):
            notes.append(TRANSLATED)
        found = replace(found, notes=[*found.notes, *notes])
        shown = show_answer(found, sample, same_model=teacher is student)
        return shown, show_alignment(found.alignment, found.notes)

    return answer


def build_page(answer: Answering, english_of: EnglishOf, examples: list[KnownQuestion]) -> "gradio.Blocks":
    """Lay the page out.

    Args:
        answer: as from `answering`.
        english_of: finds the English of questions.
        examples: questions to choose from; the first is asked when the page opens.
    """
    gradio = import_gradio()
    first = examples[0] if examples else KnownQuestion("", "", "", [])

    with gradio.Blocks(title="drdecr", analytics_enabled=False) as page:
        gradio.HTML(INTRODUCTION)
        with gradio.Row():
            question = gradio.Textbox(
                first.query,
                label="Question, in any language",
                elem_id="question",
                scale=3,
                min_width=280,
                max_lines=MOST_LINES,
            )
            english = gradio.Textbox(
                first.english,
                label=f"{ENGLISH}; left empty, it is translated" if english_of.first else ENGLISH,
                elem_id="english",
                scale=3,
                min_width=280,
                max_lines=MOST_LINES,
            )
            button = gradio.Button("Ask", variant="primary", elem_id="ask", scale=1, min_width=90)
        nothing = show_notice(NOTHING_ASKED) if not examples else None
        passages = gradio.HTML(nothing, elem_id="passages", render=False)
        alignment = gradio.HTML(nothing, elem_id="alignment", render=False)
        asked, shown = [question, english], [passages, alignment]
        if examples:
            rows = [[row.query, row.english] for row in examples]
            labels = [f"{LANGUAGE_NAMES[row.language]}: {row.query}" for row in examples]
            chosen = gradio.Examples(rows, asked, label="Examples", example_labels=labels, elem_id="examples")
            # Not by `run_on_click`, which passes over an example that is chosen while another is answered.
            loaded = chosen.load_input_event
            loaded.then(answer, asked, shown, trigger_mode="always_last", api_visibility="private")
            page.load(answer, asked, shown, api_visibility="private")
        with gradio.Tabs():
            with gradio.Tab("Passages"):
                passages.render()
            with gradio.Tab("Alignment"):
                alignment.render()
        _follow_question(gradio, question, english, english_of)
        # First the box, so that whoever asks sees what the teacher is asked. Of several askings the last is answered.
        ways = [button.click, question.submit, english.submit]
        filled = gradio.on(ways, english_of.fill, asked, english, trigger_mode="always_last", api_visibility="private")
        filled.then(answer, asked, shown, trigger_mode="always_last", api_name="ask")
    return page


def _follow_question(gradio: Any, question: Any, english: Any, english_of: EnglishOf) -> None:
    """Let the English box follow its question, however that comes to stand there: `input` is silent when text is pasted."""
    found = gradio.JSON(visible=False)

    def follow(question: str, english: str) -> list[str]:
        return [question, english, english_of.follow(question, english)]

    followed = question.change(follow, [question, english], found, show_progress="hidden", api_visibility="private")
    followed.then(
        None, [question, english, found], english, js=TAKE_UP, show_progress="hidden", api_visibility="private"
    )


def serve_page(page: "gradio.Blocks", host: str, port: int | None, wait: bool = True) -> str:
    """Open the page to browsers of this machine (or network, by `host`); nothing is asked of any other host.

    Args:
        page: as from `build_page`.
        host: address that is listened at.
        port: default: the first free one from 7860 on.
        wait: until the process is stopped; False: return while it is served.

    Returns:
        Its address.

    Raises:
        OSError: for a port that is taken.
    """
    gradio = import_gradio()
    theme = gradio.themes.Default(primary_hue="blue")
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        ssr_mode=False,
        footer_links=[],
        css=style_sheet(),
        theme=theme,
    )
    if wait:
        typer.echo(f"page: {address}  (stop it with Ctrl+C)")
        page.block_thread()
    return str(address)


def import_gradio() -> Any:
    """Import Gradio.

    Raises:
        ImportError: naming the extra that brings it.
    """
    try:
        import gradio
    except ImportError as error:
        raise ImportError("The page needs Gradio. Install it with `pip install drdecr[page]`.") from error
    return gradio
