"""Who says how relevant a candidate is: the teacher, a cross-encoder, or a file of scores."""

import csv
import json
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Protocol

import torch
from tqdm.auto import tqdm
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from drdecr.data.embeddings.cache import Tokens
from drdecr.data.files import clear_unfinished, digest_of, whole_file
from drdecr.data.readers.text import lines_of, locate
from drdecr.modeling_drdecr import maxsim_candidates, pad_embeddings
from drdecr.retrieval.encoder import weights_digest

Row = Mapping[str, Any]


class Scorer(Protocol):
    """Scores the candidates of rows with `query`, `english` and `document_ids`."""

    facts: dict[str, Any]
    """What its scores depend on, and where they come from: values that JSON can hold."""

    def score(self, rows: list[Row]) -> list[list[float]]:
        """Return one score for each of `document_ids` of each row, higher is better."""

    def query_tokens(self, rows: Sequence[Row]) -> list[int]:
        """Return how many query tokens each row's scores sum over; 0 for scores that are no such sums."""


class TeacherScorer:
    """The teacher's MaxSim of the English question, from its tokens.

    Args:
        queries: its tokens of the English questions.
        documents: its tokens of the passages.
        facts: what tells this teacher from another.
        batch_size: rows scored at once (default 32).
    """

    def __init__(self, queries: Tokens, documents: Tokens, facts: Mapping[str, Any], batch_size: int = 32) -> None:
        self.queries, self.documents, self.batch_size = queries, documents, batch_size
        self.facts = {"scorer": "teacher", **facts}

    @torch.no_grad()
    def score(self, rows: list[Row]) -> list[list[float]]:
        """Return one score for each candidate of each row."""
        scores: list[list[float]] = []
        for start in range(0, len(rows), self.batch_size):
            batch = rows[start : start + self.batch_size]
            most = max(len(row["document_ids"]) for row in batch)
            # Short rows are filled up with their own first candidate, whose scores are cut off again.
            ids = [name for row in batch for name in [*row["document_ids"], *row["document_ids"][:1] * most][:most]]
            documents, mask, _ = self.documents.padded(ids)
            query, query_mask = pad_embeddings([self.queries.tokens(row["english"]).float() for row in batch])
            shape = (len(batch), most)
            found = maxsim_candidates(
                query, documents.float().unflatten(0, shape), query_mask, mask.unflatten(0, shape)
            )
            scores += [own[: len(row["document_ids"])] for own, row in zip(found.tolist(), batch, strict=True)]
        return scores

    def query_tokens(self, rows: Sequence[Row]) -> list[int]:
        """Return how many tokens of the English question score."""
        return [len(self.queries.tokens(row["english"])) for row in rows]


class CrossEncoderScorer:
    """A cross-encoder, any `AutoModelForSequenceClassification`: it reads question and passage together.

    A model of one output gives that; one of two the second's advantage over the first, the log-odds of its probability.

    Args:
        name: Hub name or folder.
        passages: `{document_id: text}`.
        reads: column of the questions that it reads (default `english`; `query` for a multilingual one).
        revision: of the Hub name.
        max_length: tokens of question and passage (default 512); the passage is cut.
        batch_size: pairs read at once (default 32).
        dtype: precision in which it reads (default float32).
        device: default: the CPU.

    Raises:
        ValueError: for a model of more than two outputs, or without a head.
    """

    def __init__(
        self,
        name: str,
        passages: Mapping[str, str],
        reads: str = "english",
        revision: str | None = None,
        max_length: int = 512,
        batch_size: int = 32,
        dtype: str = "float32",
        device: torch.device | str = "cpu",
    ) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
        model, loaded = AutoModelForSequenceClassification.from_pretrained(
            name, revision=revision, dtype=getattr(torch, dtype), output_loading_info=True
        )
        self.model = model.to(device).eval()
        missing = [key for key in loaded["missing_keys"] if "position_ids" not in key]
        if missing or self.model.config.num_labels > 2:
            raise ValueError(
                f"{name}: expected a cross-encoder of one or two outputs, got {self.model.config.num_labels} outputs and "
                f"{len(missing)} weights that the checkpoint lacks. Name one that was trained to rank passages."
            )
        self.passages, self.reads, self.max_length, self.batch_size = passages, reads, max_length, batch_size
        commit = getattr(self.model.config, "_commit_hash", None) or weights_digest(self.model)
        shown = Path(name).name if Path(name).is_dir() else name  # the folder is nobody else's business
        self.facts = {"scorer": shown, "revision": commit, "reads": reads, "max_length": max_length, "dtype": dtype}

    @torch.no_grad()
    def score(self, rows: list[Row]) -> list[list[float]]:
        """Return one score for each candidate of each row."""
        pairs = [pair for row in rows for pair in self._pairs(row)]
        order = sorted(range(len(pairs)), key=lambda index: -sum(map(len, pairs[index])))  # batches of like length
        scores = torch.zeros(len(pairs))
        for start in range(0, len(order), self.batch_size):
            indices = order[start : start + self.batch_size]
            questions, texts = zip(*(pairs[index] for index in indices), strict=True)
            self._check_room(questions)
            inputs = self.tokenizer(
                list(questions),
                list(texts),
                truncation="only_second",
                max_length=self.max_length,
                padding=True,
                return_tensors="pt",
            )
            logits = self.model(**inputs.to(self.model.device)).logits.float().cpu()  # (pairs, 1 or 2)
            scores[indices] = logits[:, -1] - (logits[:, 0] if logits.shape[1] == 2 else 0)
        return [own.tolist() for own in scores.split([len(row["document_ids"]) for row in rows])]

    def _check_room(self, questions: Sequence[str]) -> None:
        """Refuse a question that leaves no room for a passage: the tokenizer, which cuts passages only, would not name it."""
        room = self.max_length - self.tokenizer.num_special_tokens_to_add(pair=True)
        different = list(dict.fromkeys(questions))
        tokens = self.tokenizer(different, add_special_tokens=False, verbose=False)["input_ids"]
        for question, ids in zip(different, tokens, strict=True):
            if len(ids) >= room:
                raise ValueError(
                    f"{self.facts['scorer']}: expected questions of fewer than {room} tokens, so that a passage has room, got "
                    f"{len(ids)} in {question[:60]!r}. Drop the row, or read more: `--max-length`."
                )

    def _pairs(self, row: Row) -> list[tuple[str, str]]:
        """Return what is read of a row; a `ValueError` names the row that lacks a text."""
        place = f"question {row.get('query_id') or str(row.get('query'))[:60]!r}"
        if not isinstance(row.get(self.reads), str):
            raise ValueError(
                f"{place}: expected a text in {self.reads!r}, which the cross-encoder reads, got {row.get(self.reads)!r} among "
                f"{', '.join(row)}. Fill it, or name another column with `reads`."
            )
        missing = next((name for name in row["document_ids"] if name not in self.passages), None)
        if missing is not None:
            raise ValueError(
                f"{place}: candidate {missing!r} is not among the {len(self.passages)} passages. Give the passages that the "
                "candidates were taken from."
            )
        return [(row[self.reads], self.passages[name]) for name in row["document_ids"]]

    def query_tokens(self, rows: Sequence[Row]) -> list[int]:
        """Return zeros: a cross-encoder's score sums over nothing."""
        return [0] * len(rows)


class FileScorer:
    """Scores that another program gave: by question and passage id.

    Args:
        path: a file of one of the forms of `drdecr.data.teacher.scorers`, perhaps packed by gzip.
        store: SQLite file that the scores are looked up in, kept for other calls; default: a temporary one.

    Raises:
        ValueError: naming file and line, for another form.
    """

    def __init__(self, path: str, store: Path | None = None) -> None:
        file = locate(path)
        self.path = path
        if store is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="drdecr-scores-")
            store = Path(self._temporary.name) / "scores.sqlite3"
        self.scores = StoredScores(file, store)
        self.facts = {"scorer": file.name, "revision": self.scores.digest}

    def score(self, rows: list[Row]) -> list[list[float]]:
        """Return the file's score of each candidate; a `ValueError` names the first that it does not hold."""
        return [[self._score(row["query_id"], name) for name in row["document_ids"]] for row in rows]

    def _score(self, query_id: Any, document_id: str) -> float:
        score = self.scores.get(str(query_id), document_id)
        if score is None:
            raise ValueError(
                f"{self.path}: expected a score of passage {document_id!r} for question {query_id!r}, got none. Score "
                "every candidate, or drop it."
            )
        return score

    def query_tokens(self, rows: Sequence[Row]) -> list[int]:
        """Return zeros: nothing is known of what the scores sum over."""
        return [0] * len(rows)


CACHE_KILOBYTES = 64_000
"""Memory for the pages that were used last."""

_INSERT = "INSERT OR REPLACE INTO scores VALUES (?, ?, ?)"
_FIND = "SELECT score FROM scores WHERE query_id = ? AND document_id = ?"


class StoredScores:
    """Scores in a SQLite file. Of a pair that stands twice the last score counts.

    Args:
        file: of scores.
        store: SQLite file, written whole or not at all; one that was made of the same file is taken as it is.

    Raises:
        ValueError: naming file and line, for another form. Nothing is left on disk.
    """

    def __init__(self, file: Path, store: Path) -> None:
        self.digest = digest_of(file)
        store.parent.mkdir(parents=True, exist_ok=True)
        clear_unfinished(store.parent)
        if not store.exists() or _made_of(store) != self.digest:
            try:
                with whole_file(store) as unfinished:
                    _write(file, self.digest, unfinished)
            except ValueError:
                with suppress(OSError):
                    store.parent.rmdir()  # if nothing else is there
                raise
        self._connection = _opened(store)

    def get(self, query_id: str, document_id: str) -> float | None:
        """Return a score; None where the file has none."""
        found = self._connection.execute(_FIND, (_key(query_id), _key(document_id))).fetchone()
        if found is None:
            return None
        return float("nan") if found[0] is None else float(found[0])  # SQLite keeps NaN as nothing


def _write(file: Path, digest: str, store: Path) -> None:
    """Make the SQLite file. It is not written safely: a kill leaves one that nobody opens."""
    with closing(_opened(store)) as connection:
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("CREATE TABLE source (digest TEXT)")
        connection.execute(
            "CREATE TABLE scores (query_id BLOB, document_id BLOB, score REAL, PRIMARY KEY (query_id, document_id)) "
            "WITHOUT ROWID"
        )
        connection.execute("BEGIN")
        connection.execute("INSERT INTO source VALUES (?)", (digest,))
        connection.executemany(_INSERT, _keyed(scores_of(file)))
        connection.execute("COMMIT")


def _made_of(store: Path) -> str:
    with closing(_opened(store)) as connection:
        return str(connection.execute("SELECT digest FROM source").fetchone()[0])


def _opened(store: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(store, isolation_level=None)
    connection.execute(f"PRAGMA cache_size=-{CACHE_KILOBYTES}")
    return connection


def _key(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")  # JSON may hold half of a surrogate pair, which is no text to SQLite


def _keyed(scores: Iterable[tuple[str, str, float]]) -> Iterator[tuple[bytes, bytes, float]]:
    for query_id, document_id, score in tqdm(scores, desc="reading scores", unit="score", disable=None):
        yield _key(query_id), _key(document_id), score


def scores_of(file: Path) -> Iterator[tuple[str, str, float]]:
    """Yield question id, passage id and score of each line.

    Raises:
        ValueError: naming file and line, for another form.
    """
    for number, line in lines_of(file):
        try:
            if line.lstrip()[:1] == "[":
                query_id, *pairs = json.loads(line)
                yield from ((str(query_id), str(name), float(score)) for name, score in pairs)
                continue
            fields = next(csv.reader([line], delimiter="\t", quoting=csv.QUOTE_NONE)) if "\t" in line else line.split()
            query_id, document_id, score = (fields[0], fields[2], fields[4]) if len(fields) == 6 else fields
            yield query_id, document_id, float(score)
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{file}, line {number}: expected query id, document id and score, a line of a TREC run, or "
                f"[query_id, [document_id, score], ...], got {line[:80]!r}. Write the score as a number, or drop the line."
            ) from error
