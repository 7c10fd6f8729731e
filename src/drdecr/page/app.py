"""`drdecr page`: a page in the browser that asks a student and its teacher, and shows why a passage is an answer.

This module holds layout and events; `answers` computes, `view` draws.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from drdecr.data.corpus import read_passages
from drdecr.data.files import value_digest
from drdecr.data.offline.sample import read_sample_questions
from drdecr.data.teacher.translators import QueryTranslator
from drdecr.modeling_drdecr import DrDecrModel
from drdecr.retrieval import StoredIndex
from drdecr.retrieval.build import build_index, check_index, open_or_create_index
from drdecr.retrieval.encoder import load_encoder, model_digest
from drdecr.retrieval.passages import Document, Splitter
from drdecr.retrieval.protocol import PassageIndex
from drdecr.retrieval.retriever import open_index

from .answers import EnglishQuestions, SampleQuestion, Searcher, answer_question, choose_examples, read_sample
from .view import LANGUAGE_NAMES, show_alignment, show_answer, show_notice, style_sheet

if TYPE_CHECKING:
    import gradio

AnswerFunction = Callable[[str, str], tuple[str, str]]
"""Question and English to the HTML of the passages and of the alignment."""

DEMO = Path("runs/demo")

INTRODUCTION = (
    "<h1>Ask in any language, read in English</h1><p class='lead'>The student reads the question as it was asked, the teacher "
    "reads its English. What each of their tokens matched in a passage is coloured.</p>"
)
ENGLISH = "The same in English, for the teacher"
TRANSLATED = "The English was translated by a machine. Correct it in its box, and ask again, where it is wrong."
FIRST_STEP = "Write a question in any language and, for the teacher, its English; then press Ask."
UPLOAD_PATHS = ("/gradio_api/upload", "/upload")
MAX_LINES = 4
"""Lines of a box; a taller one would push the answers out of sight."""


@dataclass(frozen=True)
class PageSources:
    """What the page is over.

    Args:
        model: the student, a checkpoint folder or Hub name; None: what `drdecr demo` made.
        teacher: the same for the teacher; default: the demo's, or the student reads the English too.
        passages: JSON Lines, encoded the first time that the page opens; default: the sample data.
        index: or: an index that the student encoded.
        teacher_index: and one that the teacher did.

    Raises:
        ValueError: for an index beside passages, or one for one of two models alone.
    """

    model: str | None = None
    teacher: str | None = None
    passages: Path | None = None
    index: Path | None = None
    teacher_index: Path | None = None

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
                "--index: expected an index of the teacher's as well. Make it (drdecr index build TEACHER DOCUMENTS FOLDER) and "
                "name it: --teacher-index FOLDER."
            )


def run_page(sources: PageSources, host: str, port: int | None, translator: QueryTranslator | None = None) -> None:
    """Serve the page until the process is stopped; without a model, over what `drdecr demo` made.

    Args:
        sources: models and passages.
        host: address that is listened at.
        port: default: the first free one from 7860 on.
        translator: translates questions whose English is left empty (default: nobody does).

    Raises:
        FileNotFoundError: if the demo has not run.
        ImportError: without the extra `page`.
    """
    if sources.model is None:
        model, teacher = find_demo_models(DEMO, sources.teacher)
        sources = replace(sources, model=model, teacher=teacher)
    import_gradio()  # an error comes before models are loaded
    student, teacher_searcher, sample = load_searchers(sources)
    english = EnglishQuestions(sample, translator)
    page = build_page(answer_function(student, teacher_searcher, english), english, choose_examples() if sample else [])
    serve_page(page, host, port)


def find_demo_models(run: Path, teacher: str | None) -> tuple[str, str]:
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


def load_searchers(sources: PageSources) -> tuple[Searcher, Searcher, Mapping[str, SampleQuestion]]:
    """Load both models and open their indexes; an index that does not exist is made.

    Returns:
        Student, teacher, and the sample's questions by their text; no questions for passages of the user's.
    """
    model, teacher = str(sources.model), sources.teacher
    student = _load_searcher(model, sources.passages, sources.index)
    if not teacher or teacher == model:
        teacher_searcher = student
    else:
        teacher_searcher = _load_searcher(teacher, sources.passages, sources.teacher_index)
    return student, teacher_searcher, {} if sources.passages or sources.index else read_sample()


def _load_searcher(name: str, passages: Path | None, folder: Path | None) -> Searcher:
    model = load_encoder(name)
    if folder is None:
        collection = read_passages(str(passages)) if passages else read_sample_questions("test").passages
        return Searcher(model, cached_index(model, collection, str(passages.resolve()) if passages else "sample"))
    return Searcher(model, open_index_of(model, folder))


def open_index_of(model: DrDecrModel, folder: Path) -> PassageIndex:
    """Open an index on disk to search it with a model.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if its vectors have another width than the model's.
    """
    check_index(folder)
    index = open_index(folder)
    dim, expected = getattr(index, "dim", model.config.embedding_dim), model.config.embedding_dim
    if dim != expected:
        raise ValueError(
            f"{folder}: expected vectors of {expected} dimensions, as the model makes them, got {dim}. Name the index that "
            "this model encoded."
        )
    return index


def cached_index(
    model: DrDecrModel, passages: Mapping[str, str], collection: str, cache_dir: Path | None = None
) -> StoredIndex:
    """Return an index of passages by a model: made once, and brought up to date when some of them have changed.

    Args:
        model: with its processor; after a training it is another model, with another index.
        passages: `{document_id: text}`.
        collection: name of the passages' source.
        cache_dir: default `$DRDECR_CACHE`, or `~/.cache/drdecr`; the index is `page/<digest>` in it.
    """
    root = cache_dir or Path(os.environ.get("DRDECR_CACHE") or Path.home() / ".cache" / "drdecr")
    digest = model_digest(model)
    folder = root.expanduser() / "page" / value_digest([digest, collection])[:16]
    documents = (Document(name, text) for name, text in passages.items())
    with open_or_create_index(folder, model.config.embedding_dim, {"model": digest}, "float16", 1) as index:
        build_index(model, documents, index, Splitter(), prune=True)
    return StoredIndex.open(folder, verify=False)  # its passages were read through a moment ago


def answer_function(student: Searcher, teacher: Searcher, english_questions: EnglishQuestions) -> AnswerFunction:
    """Return the function behind the button: it answers any text, if need be with a plain message."""

    def answer(question: str, english: str) -> tuple[str, str]:
        question, english = question or "", english or ""  # a client of the API may send nothing
        sample = english_questions.sample.get(question.strip())
        notes = []
        try:
            english = english if english.strip() else english_questions.find(question)
        except Exception as error:  # noqa: BLE001  # of the translator: the student answers, and the note says why alone
            notes.append(f"There is no translation: {error}")
        try:
            both = answer_question(student, teacher, question, english, sample)
        except ValueError as error:
            return show_notice(str(error)), show_notice(str(error))
        if english_questions.is_translation(english):
            notes.append(TRANSLATED)
        both = replace(both, notes=[*both.notes, *notes])
        passages = show_answer(both, sample, same_model=teacher is student)
        return passages, show_alignment(both.alignment, both.notes)

    return answer


def build_page(
    answer: AnswerFunction, english_questions: EnglishQuestions, examples: list[SampleQuestion]
) -> "gradio.Blocks":
    """Lay the page out.

    Args:
        answer: as from `answer_function`.
        english_questions: finds the English of questions.
        examples: questions to choose from; the first is asked when the page opens.
    """
    gradio = import_gradio()
    first = examples[0] if examples else SampleQuestion("", "", "", [])

    with gradio.Blocks(title="drdecr", analytics_enabled=False) as page:
        gradio.HTML(INTRODUCTION)
        with gradio.Row():
            question = gradio.Textbox(
                first.query,
                label="Question, in any language",
                elem_id="question",
                scale=3,
                min_width=280,
                max_lines=MAX_LINES,
            )
            english = gradio.Textbox(
                first.english,
                label=f"{ENGLISH}; left empty, it is translated" if english_questions.translator else ENGLISH,
                elem_id="english",
                scale=3,
                min_width=280,
                max_lines=MAX_LINES,
            )
            button = gradio.Button("Ask", variant="primary", elem_id="ask", scale=1, min_width=90)
        notice = show_notice(FIRST_STEP) if not examples else None
        passages = gradio.HTML(notice, elem_id="passages", render=False)
        alignment = gradio.HTML(notice, elem_id="alignment", render=False)
        boxes, answers = [question, english], [passages, alignment]
        if examples:
            rows = [[row.query, row.english] for row in examples]
            labels = [f"{LANGUAGE_NAMES[row.language]}: {row.query}" for row in examples]
            chooser = gradio.Examples(rows, boxes, label="Examples", example_labels=labels, elem_id="examples")
            # `run_on_click` would pass over an example that is clicked while another is answered.
            chooser.load_input_event.then(answer, boxes, answers, trigger_mode="always_last", api_visibility="private")
            page.load(answer, boxes, answers, api_visibility="private")
        with gradio.Tabs():
            with gradio.Tab("Passages"):
                passages.render()
            with gradio.Tab("Alignment"):
                alignment.render()
        # The box is filled first, so that people see what the teacher is asked. Of several questions the last is answered.
        sends = [button.click, question.submit, english.submit]
        filled = gradio.on(
            sends, english_questions.fill, boxes, english, trigger_mode="always_last", api_visibility="private"
        )
        filled.then(answer, boxes, answers, trigger_mode="always_last", api_name="ask")
    return page


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
    from starlette.middleware import Middleware

    from drdecr.serve.gate import Gate, local_hosts

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
        # Nothing on the page takes a file, so nobody can leave one here.
        app_kwargs={"middleware": [Middleware(Gate, hosts=local_hosts(host), closed_paths=UPLOAD_PATHS)]},
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
