"""What the page shows for a question: both models' best passages with their matched tokens, and the token alignment."""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from drdecr.data.offline.sample import LANGUAGES, SPLITS, read_sample_questions
from drdecr.data.teacher.translators import QueryTranslator
from drdecr.modeling_drdecr import DrDecrModel
from drdecr.retrieval import ExactIndex
from drdecr.retrieval.exact import InMemoryIndex
from drdecr.retrieval.passages import passage_text
from drdecr.retrieval.retriever import Searchable, search_documents
from drdecr.retrieval.token_matches import TextTokens, TokenMatches, match_tokens, read_passages, read_query
from drdecr.trainers.alignment import pair_tokens

SHOWN = 3
"""Passages of each model: what stands side by side without scrolling far."""

LONGEST = 2000
"""Characters of a question. The model reads some tens of tokens; more is a text pasted by mistake."""


@dataclass(frozen=True)
class KnownQuestion:
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
class FoundPassage:
    """A passage, why it was found, and whether it is known to answer (None: not known)."""

    document_id: str
    score: float
    tokens: TextTokens
    matches: TokenMatches
    is_answer: bool | None


@dataclass(frozen=True)
class Reading:
    """What one model read and found, best passage first."""

    query: TextTokens
    found: list[FoundPassage]


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

    student: Reading
    teacher: Reading | None
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
    index: Searchable

    @classmethod
    def over(cls, model: DrDecrModel, passages: Mapping[str, str]) -> "Searcher":
        """Encode a few passages with the model and keep them in memory."""
        index = ExactIndex(list(passages), model.encode_documents(list(passages.values())))
        return cls(model, InMemoryIndex(index, passages))

    def read(self, text: str, answers: Sequence[str] | None = None) -> Reading:
        """Search, and encode again what was found, so that its tokens can be shown whatever the index keeps.

        Args:
            text: the question.
            answers: ids of the documents that answer it, if known.
        """
        query = read_query(self.model, text)
        hits = search_documents(self.index, [query.embeddings], SHOWN)[0]
        passages = read_passages(self.model, [passage_text(hit.title, hit.text) for hit in hits])
        found = [
            FoundPassage(
                hit.document_id,
                hit.score,
                tokens,
                match_tokens(query.embeddings, tokens.embeddings),
                None if answers is None else hit.document_id in answers,
            )
            for hit, tokens in zip(hits, passages, strict=True)
        ]
        return Reading(query, found)


def ask(student: Searcher, teacher: Searcher, question: str, english: str, known: KnownQuestion | None) -> Answer:
    """Answer a question.

    Args:
        student: reads the question.
        teacher: reads its English.
        question: in any language.
        english: its English; empty: nothing is shown for the teacher.
        known: the question in the sample data, if it is there.

    Raises:
        ValueError: for a question that has no words or too many, in words for whoever asked.
    """
    answers = known.document_ids if known else None
    reading = student.read(clean_question(question), answers)
    notes = []
    if reading.query.is_cut:
        notes.append("The question is longer than what the model reads: its end, grey, was left out.")
    if not english.strip():
        notes.append("Write the question in English as well to see what the teacher finds, and the token alignment.")
        return Answer(reading, None, None, notes)
    teachers = teacher.read(clean_question(english), answers)
    if teachers.query.is_cut:
        notes.append("The English is longer than what the model reads: its end, grey, was left out.")
    try:
        alignment = align(reading.query, teachers.query)
    except ValueError as error:  # models of another width: each searches its own space, and their tokens do not compare
        return Answer(reading, teachers, None, [*notes, str(error)])
    return Answer(reading, teachers, alignment, notes)


def align(student: TextTokens, teacher: TextTokens) -> Alignment:
    """Pair the tokens of a question with those of its English as the trainers do: those that stand for the text."""
    own, other = _of_text(student), _of_text(teacher)
    cosines, partners = pair_tokens(own.embeddings, other.embeddings)
    return Alignment(own, other, cosines.tolist(), partners.tolist())


def _of_text(tokens: TextTokens) -> TextTokens:
    embeddings: Tensor = tokens.embeddings[tokens.in_text]
    return TextTokens(tokens.text, [span for span in tokens.spans if span is not None], embeddings, tokens.is_cut)


def clean_question(text: str | None) -> str:
    """Return a question in one line, without characters that stand for nothing.

    Raises:
        ValueError: if nothing is left of it, or more than 2,000 characters.
    """
    # Format characters (Cf) stay: the joiners of Indic and Arabic script are among them.
    dropped = {"Cc", "Cs", "Cn", "Co"}
    kept = "".join(" " if unicodedata.category(sign) in dropped else sign for sign in (text or "")[: LONGEST * 10])
    line = " ".join(kept.split())
    if not any(unicodedata.category(sign)[0] in "LNSP" for sign in line):
        raise ValueError("There is no question yet. Write one in any language, or choose an example.")
    if len(line) > LONGEST:
        raise ValueError(f"A question of {len(text or ''):,} characters is too long. Ask in at most {LONGEST:,}.")
    return line


def sample_known() -> dict[str, KnownQuestion]:
    """Return every question of the sample data by its text."""
    known: dict[str, KnownQuestion] = {}
    for split in SPLITS:
        for row in read_sample_questions(split, ["en", *LANGUAGES]).questions:
            found = KnownQuestion(row["query"], row["english"], row["language"], row["document_ids"])
            known.setdefault(row["query"], found)
    return known


def sample_examples() -> list[KnownQuestion]:
    """Return one test question a language, each about something else."""
    rows = list(read_sample_questions("test", [*LANGUAGES, "en"]).questions)
    found = []
    for number, code in enumerate([*LANGUAGES, "en"]):
        own = [row for row in rows if row["language"] == code]
        row = own[(5 * number + 2) % len(own)]
        found.append(KnownQuestion(row["query"], row["english"], code, row["document_ids"]))
    return found


CACHED_TRANSLATIONS = 1000
"""Translations that are remembered: those that may still stand in somebody's box."""


class EnglishOf:
    """Finds the English of questions.

    Args:
        known: questions of the sample by their text.
        first: translates all others (default None: their English is for people to write).
    """

    def __init__(self, known: Mapping[str, KnownQuestion], first: QueryTranslator | None = None) -> None:
        self.known, self.first = known, first
        self._by_people = {row.english for row in known.values()}
        self._translated: dict[str, str] = {}

    def __call__(self, question: str) -> str:
        """Return the English; an empty text where it is not known and nothing translates.

        Raises:
            ValueError: for what is no question (`clean_question`). A translator may raise anything else.
        """
        sample = self.known.get(question.strip())
        if sample is not None:
            return sample.english
        if self.first is None:
            return ""
        line = clean_question(question)
        if line not in self._translated:
            self._translated[line] = self.first.english(line)
            for oldest in list(self._translated)[:-CACHED_TRANSLATIONS]:
                self._translated.pop(oldest, None)
        return self._translated[line]

    def fill(self, question: str, english: str) -> str:
        """Return what the English box is to hold when a question is asked: what a person wrote there, or what is found.

        What was found for another question may stand there still, where it is asked before `follow` has answered.
        """
        english = english or ""  # a client of the API may send nothing
        if english.strip() and not self._was_filled_in(english):
            return english
        try:
            return self(question or "")
        except Exception:  # noqa: BLE001  # told by the answer, which asks for it too
            return ""

    def follow(self, question: str, english: str) -> str:
        """Return what it is to hold while a question is typed: what is known, and nothing that belonged to another one."""
        question, english = question or "", english or ""
        if question.strip() in self.known:
            return self.known[question.strip()].english
        return "" if self._was_filled_in(english) else english

    def _was_filled_in(self, english: str) -> bool:
        return english in self._by_people or self.is_translation(english)

    def is_translation(self, english: str) -> bool:
        """Return whether a text was made by the translator."""
        return bool(english) and english in list(self._translated.values())
