"""What the page shows for a question: both models' best passages with their matched tokens, and the token alignment."""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from drdecr.data.offline.sample import LANGUAGES, SPLITS, read_sample_questions
from drdecr.data.teacher.translators import QueryTranslator
from drdecr.modeling_drdecr import DrDecrModel
from drdecr.retrieval import ExactIndex
from drdecr.retrieval.exact import InMemoryIndex
from drdecr.retrieval.passages import passage_text
from drdecr.retrieval.protocol import PassageIndex
from drdecr.retrieval.retriever import search_documents
from drdecr.retrieval.token_matches import TextTokens, TokenMatches, match_tokens, read_passages, read_query
from drdecr.trainers.alignment import pair_tokens

PASSAGES_PER_MODEL = 3
"""Passages of each model: what stands side by side without scrolling far."""

MAX_CHARACTERS = 2000
"""Characters of a question. The model reads some tens of tokens; more is a text pasted by mistake."""


@dataclass(frozen=True)
class SampleQuestion:
    """A question of the sample data.

    Args:
        query: as it is asked.
        english: the same, by a person.
        language: its code.
        document_ids: the passages that answer it.
    """

    query: str
    english: str
    language: str
    document_ids: list[str]


@dataclass(frozen=True)
class MatchedPassage:
    """A passage, why it was found, and whether it is known to answer (None: not known)."""

    document_id: str
    score: float
    tokens: TextTokens
    matches: TokenMatches
    is_answer: bool | None


@dataclass(frozen=True)
class ModelAnswer:
    """The tokens of a question as one model reads them, and the passages that it finds, best first."""

    query: TextTokens
    passages: list[MatchedPassage]


@dataclass(frozen=True)
class Alignment:
    """The student's tokens and the teacher's: `(student_tokens, teacher_tokens)` cosines, each one's partner or -1."""

    student: TextTokens
    teacher: TextTokens
    cosines: list[list[float]]
    partners: list[int]


@dataclass(frozen=True)
class Answer:
    """Everything that the page shows for a question; `teacher` and `alignment` are None without English, `notes` say why."""

    student: ModelAnswer
    teacher: ModelAnswer | None
    alignment: Alignment | None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Searcher:
    """A model and the index that it searches.

    Args:
        model: with its processor.
        index: of passages that it encoded; their payloads hold the text.
    """

    model: DrDecrModel
    index: PassageIndex

    @classmethod
    def over(cls, model: DrDecrModel, passages: Mapping[str, str]) -> "Searcher":
        """Encode a few passages with the model and keep them in memory."""
        index = ExactIndex(list(passages), model.encode_documents(list(passages.values())))
        return cls(model, InMemoryIndex(index, passages))

    def read(self, text: str, answers: Sequence[str] | None = None) -> ModelAnswer:
        """Search, and encode again what was found, so that its tokens can be shown whatever the index keeps.

        Args:
            text: the question.
            answers: ids of the documents that answer it, if known.
        """
        query = read_query(self.model, text)
        hits = search_documents(self.index, [query.embeddings], PASSAGES_PER_MODEL)[0]
        texts = read_passages(self.model, [passage_text(hit.title, hit.text) for hit in hits])
        passages = [
            MatchedPassage(
                hit.document_id,
                hit.score,
                tokens,
                match_tokens(query.embeddings, tokens.embeddings),
                None if answers is None else hit.document_id in answers,
            )
            for hit, tokens in zip(hits, texts, strict=True)
        ]
        return ModelAnswer(query, passages)


def answer_question(
    student: Searcher, teacher: Searcher, question: str, english: str, sample: SampleQuestion | None
) -> Answer:
    """Answer a question.

    Args:
        student: reads the question.
        teacher: reads its English.
        question: in any language.
        english: its English; empty: nothing is shown for the teacher.
        sample: the question in the sample data, if it is there.

    Raises:
        ValueError: for a question that has no words or too many, in words for whoever asked.
    """
    answers = sample.document_ids if sample else None
    students = student.read(clean_question(question), answers)
    notes = []
    if students.query.is_cut:
        notes.append("The question is longer than what the model reads: its end, grey, was left out.")
    if not english.strip():
        notes.append("Write the question in English as well to see what the teacher finds, and the token alignment.")
        return Answer(students, None, None, notes)
    teachers = teacher.read(clean_question(english), answers)
    if teachers.query.is_cut:
        notes.append("The English is longer than what the model reads: its end, grey, was left out.")
    try:
        alignment = align_questions(students.query, teachers.query)
    except ValueError as error:  # models of another width: each searches its own space, and their tokens do not compare
        return Answer(students, teachers, None, [*notes, str(error)])
    return Answer(students, teachers, alignment, notes)


def align_questions(student: TextTokens, teacher: TextTokens) -> Alignment:
    """Pair the tokens of a question with those of its English as the trainers do: those that stand for the text."""
    student, teacher = _text_tokens_only(student), _text_tokens_only(teacher)
    cosines, partners = pair_tokens(student.embeddings, teacher.embeddings)
    return Alignment(student, teacher, cosines.tolist(), partners.tolist())


def _text_tokens_only(tokens: TextTokens) -> TextTokens:
    embeddings: Tensor = tokens.embeddings[tokens.in_text]
    return TextTokens(tokens.text, [span for span in tokens.spans if span is not None], embeddings, tokens.is_cut)


def clean_question(text: str | None) -> str:
    """Return a question in one line, without characters that stand for nothing.

    Raises:
        ValueError: if nothing is left of it, or more than 2,000 characters.
    """
    # Format characters (Cf) stay: the joiners of Indic and Arabic script are among them.
    dropped = {"Cc", "Cs", "Cn", "Co"}
    start = (text or "")[: MAX_CHARACTERS * 10]
    line = " ".join("".join(" " if unicodedata.category(sign) in dropped else sign for sign in start).split())
    if not any(unicodedata.category(sign)[0] in "LNSP" for sign in line):
        raise ValueError("There is no question yet. Write one in any language, or choose an example.")
    if len(line) > MAX_CHARACTERS:
        raise ValueError(
            f"A question of {len(text or ''):,} characters is too long. Ask in at most {MAX_CHARACTERS:,}."
        )
    return line


def read_sample() -> dict[str, SampleQuestion]:
    """Return every question of the sample data by its text."""
    rows = [row for split in SPLITS for row in read_sample_questions(split, ["en", *LANGUAGES]).questions]
    return {row["query"]: _sample_question(row) for row in reversed(rows)}  # of equal texts the first stays


def choose_examples() -> list[SampleQuestion]:
    """Return one test question of each language, each about something else."""
    codes = [*LANGUAGES, "en"]
    rows = list(read_sample_questions("test", codes).questions)
    by_language = {code: [row for row in rows if row["language"] == code] for code in codes}
    places = enumerate(by_language.values())
    return [_sample_question(questions[(5 * number + 2) % len(questions)]) for number, questions in places]


def _sample_question(row: Mapping[str, Any]) -> SampleQuestion:
    return SampleQuestion(row["query"], row["english"], row["language"], row["document_ids"])


MAX_CACHED_TRANSLATIONS = 1000
"""Translations that are remembered: those that may still stand in somebody's box."""


class EnglishQuestions:
    """Finds the English of questions: of sample questions a person's, of others a machine translation.

    Args:
        sample: questions of the sample by their text.
        translator: translates all others (default None: people write the English themselves).
    """

    def __init__(self, sample: Mapping[str, SampleQuestion], translator: QueryTranslator | None = None) -> None:
        self.sample, self.translator = sample, translator
        self._by_people = {row.english for row in sample.values()}
        self._translations: dict[str, str] = {}

    def find(self, question: str) -> str:
        """Return the English of a question; an empty text where nobody wrote one and nothing translates.

        Raises:
            ValueError: for a text that is no question (`clean_question`). A translator may raise anything else.
        """
        if question.strip() in self.sample:
            return self.sample[question.strip()].english
        if self.translator is None:
            return ""
        line = clean_question(question)
        if line not in self._translations:
            self._translations[line] = self.translator.english(line)
            for oldest in list(self._translations)[:-MAX_CACHED_TRANSLATIONS]:
                self._translations.pop(oldest, None)
        return self._translations[line]

    def fill(self, question: str, english: str) -> str:
        """Return what the English box holds when a question is sent: what a person wrote there, else what `find` finds.

        The box may still hold the English of the question before: that is replaced.
        """
        english = english or ""  # a client of the API may send nothing
        if english.strip() and english not in self._by_people and not self.is_translation(english):
            return english
        try:
            return self.find(question or "")
        except Exception:  # noqa: BLE001  # the answer tells why: it asks for the English too
            return ""

    def is_translation(self, english: str) -> bool:
        """Return whether a text was made by the translator."""
        return bool(english) and english in list(self._translations.values())
