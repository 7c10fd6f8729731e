"""Readers of datasets on the Hub, or in folders that `datasets.load_dataset` opens."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow.parquet as pq
from datasets import Dataset, load_dataset
from datasets.config import HF_DATASETS_CACHE
from huggingface_hub import constants, snapshot_download

from drdecr.data.corpus import collection
from drdecr.data.embeddings.cache import TokenCache
from drdecr.data.embeddings.store import KINDS, StoredTokens, open_tokens
from drdecr.data.files import SUMS, check_sums, value_digest
from drdecr.data.passages import PassageStore, Row
from drdecr.data.prepare.prepared_shards import read_provenance, shards_of, wrong_shards
from drdecr.data.schema import (
    BATCH,
    CANDIDATE_COLUMNS,
    PARALLEL_COLUMNS,
    QUESTION_COLUMNS,
    CandidateSet,
    QuestionSet,
    check_rows,
    column_of,
)
from drdecr.modeling_drdecr.hub_drdecr import HubError, hub_errors

from .text import locate

CURE = "Copy it again, or delete the whole data set and make it again."


def read_hub_parallel(
    name: str,
    columns: Mapping[str, str] | None = None,
    language: str | None = None,
    config: str | None = None,
    split: str = "train",
    revision: str | None = None,
) -> Dataset:
    """Read a parallel set from the Hub, or from a folder that `datasets.load_dataset` opens.

    Args:
        name: the dataset's Hub name or folder.
        columns: `{its column: ours}` for columns named otherwise than `query`, `english`, `language`.
        language: the code, where the dataset has no language column.
        config: its configuration.
        split: its split (default train).
        revision: branch, tag or commit; name one for a run that can be repeated.
    """
    dataset = _load(hub_source(name), config, split=split, revision=revision).rename_columns(dict(columns or {}))
    if language is not None:
        dataset = dataset.add_column("language", [language] * len(dataset))
    check_rows(dataset, PARALLEL_COLUMNS, name)
    return dataset.select_columns(list(PARALLEL_COLUMNS))


def read_hub_questions(
    name: str,
    questions: str = "questions",
    passages: str = "passages",
    split: str = "train",
    passages_split: str = "train",
    revision: str | None = None,
) -> QuestionSet:
    """Read a question set from the Hub, or from a folder that `datasets.load_dataset` opens.

    Args:
        name: the dataset's Hub name or folder, with two configurations in this package's schema.
        questions: the configuration of the questions: `query_id`, `query`, `language`, `document_ids`, perhaps
            `english`.
        passages: the configuration of the passages: `document_id`, `text`, perhaps `title`.
        split: of the questions (default train).
        passages_split: of the passages (default train).
        revision: branch, tag or commit; name one for a run that can be repeated.
    """
    return QuestionSet(name, *_rows_and_passages(name, questions, passages, split, passages_split, revision))


def read_hub_candidates(
    name: str,
    config: str = "unlabelled_queries_candidates",
    passages: str = "passages",
    split: str = "train",
    passages_split: str = "train",
    revision: str | None = None,
) -> CandidateSet:
    """Read questions with candidates and teacher scores, as `drdecr data export` writes them.

    Args:
        name: the dataset's Hub name or folder.
        config: the configuration of the rows (default `unlabelled_queries_candidates`).
        passages: the configuration of the passages: `document_id`, `text`.
        split: of the rows (default train).
        passages_split: of the passages (default train).
        revision: branch, tag or commit; name one for a run that can be repeated.
    """
    found = CandidateSet(
        f"{name}, {config}", *_rows_and_passages(name, config, passages, split, passages_split, revision)
    )
    columns = [*CANDIDATE_COLUMNS, *(name for name in found.rows.column_names if name == "positive_ids")]
    found.rows = found.rows.select_columns(columns)
    return found


def read_hub_unscored(
    name: str,
    config: str = "mined_candidates",
    passages: str = "passages",
    split: str = "train",
    passages_split: str = "train",
    revision: str | None = None,
) -> tuple[Dataset, PassageStore]:
    """Read questions with candidates that need no scores yet, as `drdecr data mine` writes them, and the passages.

    Args:
        name: the dataset's Hub name or folder.
        config: the configuration of the rows (default `mined_candidates`): `query`, `language`, `document_ids`, and `english`
            unless all questions are.
        passages: the configuration of the passages: `document_id`, `text`.
        split: of the rows (default train).
        passages_split: of the passages (default train).
        revision: branch, tag or commit; name one for a run that can be repeated.

    Raises:
        ValueError: naming row and column, for a missing column, an empty text, or a candidate that is not among the passages.
    """
    rows, texts = _rows_and_passages(name, config, passages, split, passages_split, revision)
    if "english" not in rows.column_names and set(rows.unique("language")) == {"en"}:
        rows = rows.add_column("english", rows["query"])
    place = f"{name}, {config}"
    check_rows(rows, ("query", "english", "language", "document_ids"), place)
    for number, document_ids in enumerate(column_of(rows, "document_ids"), start=1):
        unknown = next((document_id for document_id in document_ids if document_id not in texts), None)
        if unknown is not None or not document_ids:
            raise ValueError(
                f"{place}, row {number}: expected candidates among the {len(texts)} passages, got {unknown!r}. Give the "
                "passages that they were taken from."
            )
    return rows, texts


def read_stored_tokens(
    name: str, kind: str = "queries", revision: str | None = None, check: bool = True
) -> StoredTokens:
    """Read the teacher's token embeddings from shards, as `drdecr data annotate --tokens` and `token_folder` write them.

    They are mapped from the files: memory holds what is being read.

    Args:
        name: folder that `drdecr data annotate` wrote, or its Hub name, or a `token_folder` that holds one teacher's tokens.
        kind: `queries` (default) or `documents`.
        revision: of the Hub name.
        check: compare the checksums (default True): every byte is read once.

    Raises:
        ValueError: if there are none or several, or naming a shard that is cut off or changed.
    """
    if kind not in KINDS:
        raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}.")
    source = Path(hub_source(name)).expanduser()
    if not source.exists():
        with hub_errors(name):
            source = Path(
                snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=f"tokens/{kind}/*")
            )
    found = sorted({*source.glob(f"tokens/{kind}"), *source.glob(f"{kind}-*")})
    if len(found) != 1:
        raise ValueError(
            f"{name}: expected the {kind} of one teacher, got {len(found)}. Write them with `drdecr data annotate --tokens`."
        )
    return open_tokens(found[0], check)


def read_hub_tokens(
    name: str, config: str = "teacher_queries", split: str = "train", revision: str | None = None
) -> TokenCache:
    """Read the teacher's token embeddings, as `drdecr data export --tokens` writes them.

    Args:
        name: the dataset's Hub name or folder.
        config: `teacher_queries` (default) or `teacher_passages`.
        split: default train.
        revision: branch, tag or commit; name one for a run that can be repeated.
    """
    rows = _load(hub_source(name), config, split=split, revision=revision)
    check_rows(rows, ("text", "embeddings", "text_flags"), f"{name}, {config}")
    return TokenCache.from_dataset(rows)


def _rows_and_passages(
    name: str, config: str, passages: str, split: str, passages_split: str, revision: str | None
) -> tuple[Dataset, PassageStore]:
    """Load the configuration of the rows, and the one of the passages that they name."""
    source = hub_source(name)
    rows = _load(source, config, split=split, revision=revision)
    documents = _load(source, passages, split=passages_split, revision=revision)
    place = f"{name}, {passages}"
    check_rows(documents, ("document_id", "text"), place)
    return rows, collection(enumerate(documents, start=1), place)


def _load(source: str, config: str | None, split: str, revision: str | None) -> Dataset:
    check_folder(source, config)
    try:
        with hub_errors(source):
            return load_dataset(source, config, split=split, revision=revision, cache_dir=_cache_of(Path(source)))
    except HubError as error:
        if Path(source).exists() or not constants.HF_HUB_OFFLINE:
            raise
        raise HubError(
            f"{source}: no such folder, and HF_HUB_OFFLINE forbids to ask the Hub for a dataset of that name. Check the path, or "
            "load it once without HF_HUB_OFFLINE."
        ) from error
    except FileNotFoundError as error:
        if Path(source).exists():
            raise FileNotFoundError(f"{source}: expected a dataset in it ({error}). Make it first.") from error
        if Path(source).is_absolute():
            raise FileNotFoundError(f"{source}: no such folder. Check the path, or make it first.") from error
        raise FileNotFoundError(
            f"{source}: expected a folder or the name of a dataset on the Hub, got neither. Check its spelling, or make it first."
        ) from error


def check_folder(source: str, config: str | None = None) -> None:
    """Compare the shards of a configuration in a local folder with their checksums, if the folder has some.

    Raises:
        ValueError: naming the shard that is missing, cut off or changed.
    """
    if not (Path(source) / SUMS).is_file():
        return
    if not config or not check_sums(Path(source), below=f"{config}/", cure=CURE):
        check_sums(Path(source), cure=CURE)  # a configuration whose files lie elsewhere


def _cache_of(folder: Path) -> str | None:
    """Return a cache of a local folder's own, another one when its files are others; None for a name on the Hub.

    `load_dataset` knows a folder by its name alone: it would take the columns of another folder of that name for these.
    """
    if not folder.is_dir():
        return None
    files = [(path, path.stat()) for path in sorted(folder.rglob("*")) if path.is_file()]
    found = [[str(path.resolve()), facts.st_size, facts.st_mtime_ns] for path, facts in files]
    return str(Path(HF_DATASETS_CACHE) / "folders" / value_digest(found)[:16])


def hub_source(name: str) -> str:
    """Return a Hub name as it is, and of a path with environment variables the folder."""
    return str(locate(name)) if "$" in name else name


TWO_TEXTS = (
    "{second}, row {line}: expected the text that passage {document_id!r} has in another source, got a different one. Name one "
    "of these sources with `sources:`."
)


def read_prepared(
    folder: str, sources: Sequence[str] | None = None, languages: Sequence[str] | None = None, cleaned: bool = False
) -> Dataset:
    """Read the parallel text of a prepared folder; it is mapped into memory, not loaded.

    Args:
        folder: that `drdecr data prepare` wrote.
        sources: names of those that are wanted; default: all.
        languages: codes of those that are wanted; default: all.
        cleaned: the rows are believed, not read through, and bring their `source` (default False).

    Raises:
        ValueError: naming a shard that is not as it was written, or if there is no such text.
    """
    rows = _rows(folder, "parallel", sources, languages)
    if cleaned:
        return rows.select_columns([*PARALLEL_COLUMNS, "source"])
    check_rows(rows, PARALLEL_COLUMNS, folder)
    return rows.select_columns(list(PARALLEL_COLUMNS))


def read_prepared_questions(
    folder: str, sources: Sequence[str] | None = None, languages: Sequence[str] | None = None
) -> QuestionSet:
    """Read the questions of a prepared folder with the passages of the same sources; arguments as of `read_prepared`.

    The column `english` is there if every question has it; answers, grades and irrelevant passages are.
    """
    rows = _rows(folder, "questions", sources, languages)
    columns = [*QUESTION_COLUMNS, "answers", "relevance", "irrelevant_ids"]
    if all(all(batch["english"]) for batch in rows.select_columns("english").iter(BATCH)):
        columns.append("english")
    return QuestionSet(_name(folder, sources), rows.select_columns(columns), _passages(folder, sources))


def read_prepared_candidates(
    folder: str, sources: Sequence[str] | None = None, languages: Sequence[str] | None = None
) -> CandidateSet:
    """Read questions with candidates and scores of a prepared folder; arguments as of `read_prepared`."""
    rows = _rows(folder, "candidates", sources, languages).select_columns(list(CANDIDATE_COLUMNS))
    return CandidateSet(_name(folder, sources), rows, _passages(folder, sources))


def _files(folder: str, table: str, sources: Sequence[str] | None, languages: Sequence[str] | None) -> list[Path]:
    root = locate(folder)
    shards = [
        shard
        for shard in shards_of(read_provenance(root))
        if shard.path.startswith(f"{table}/")
        and (sources is None or shard.path.split("/")[1] in sources)
        and (languages is None or not shard.language or shard.language in languages)
    ]
    wrong = wrong_shards(root, shards)
    if wrong:
        raise ValueError(f"{folder}: {' '.join(wrong)} Get the folder again, or prepare it again.")
    if not shards:
        raise ValueError(
            f"{folder}: expected {table} of {', '.join(sources or ['any source'])}, got none. Look at its card."
        )
    return [root / shard.path for shard in shards]


def _rows(folder: str, table: str, sources: Sequence[str] | None, languages: Sequence[str] | None) -> Dataset:
    files = [str(file) for file in _files(folder, table, sources, languages)]
    return load_dataset("parquet", data_files=files, split="train")


def _passages(folder: str, sources: Sequence[str] | None) -> PassageStore:
    files = _files(folder, "passages", sources, None)
    is_one = len({file.parent for file in files}) == 1
    return PassageStore(_passage_rows(files), folder, None if is_one else TWO_TEXTS)


def _passage_rows(files: list[Path]) -> Iterator[Row]:
    for file in files:
        number = 0
        with pq.ParquetFile(file) as opened:
            for batch in opened.iter_batches(columns=["document_id", "text"]):
                for document_id, text in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    number += 1
                    yield file, number, document_id, text


def _name(folder: str, sources: Sequence[str] | None) -> str:
    return ", ".join(sources or [Path(folder).name])
