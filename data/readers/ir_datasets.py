"""Reader of test collections by their name in `ir_datasets`, such as NeuCLIR and HC4."""

from collections.abc import Iterator
from typing import Any

from drdecr.data.passages import PassageStore
from drdecr.data.schema import QuestionSet
from drdecr.retrieval.passages import passage_text

from .beir import Judged, Judgements, judged_set, unique_queries


def read_ir_datasets(
    dataset: str,
    language: str | None = None,
    query_field: str | None = None,
    english_field: str | None = None,
    name: str | None = None,
) -> QuestionSet:
    """Read queries, judgements and documents of a data set that `ir_datasets` knows; it gets what is not on disk yet.

    Args:
        dataset: its name there, with queries and qrels, such as `neuclir/1/fa/hc4-filtered`.
        language: code of the language that `query_field` is in; default: what `ir_datasets` says.
        query_field: which field of a query is asked, such as `ht_title` (HC4's human translation); default: the library's
            choice.
        english_field: the field with the query in English, for the teacher (HC4: `title`); default none.
        name: of the set; default the data set's.

    Raises:
        ValueError: naming the data set, row and what was expected.
        ModuleNotFoundError: without the library, naming the extra.
    """
    source = _load(dataset)
    code = language or source.queries_lang()
    if not code:
        raise ValueError(f"{dataset}: expected its queries' `language`, since ir_datasets does not tell it.")
    fields = {field: list(_queries(source, dataset, field)) for field in (query_field, english_field)}
    queries = unique_queries(dataset, fields[query_field])
    judgements = Judgements(f"{dataset}, qrels", _judged(source))
    judgements.check_queries(queries)  # before the collection, which takes long
    passages = PassageStore(_documents(source, dataset), dataset)
    english = unique_queries(dataset, fields[english_field]) if english_field else None
    return judged_set(name or dataset, code, queries, judgements, passages, english)


def _load(dataset: str) -> Any:
    try:
        import ir_datasets
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'The format `ir_datasets` needs its library: `pip install "drdecr[ir_datasets]"`.'
        ) from error
    try:
        source = ir_datasets.load(dataset)
    except KeyError as error:
        raise ValueError(f"{dataset}: expected a data set that ir_datasets knows, got this name.") from error
    parts = {"documents": source.has_docs(), "queries": source.has_queries(), "qrels": source.has_qrels()}
    missing = [part for part, is_there in parts.items() if not is_there]
    if missing:
        raise ValueError(
            f"{dataset}: expected documents, queries and qrels, got no {' and no '.join(missing)}. Name a part of it that "
            "has them, such as its dev or test."
        )
    return source


def _queries(source: Any, dataset: str, field: str | None) -> Iterator[tuple[int, str, str]]:
    for number, query in enumerate(source.queries_iter(), start=1):
        text = query.default_text() if field is None else getattr(query, field, None)
        if not isinstance(text, str):
            raise ValueError(
                f"{dataset}, query {number}: expected a text in the field {field!r}, got {text!r}. The fields are "
                f"{', '.join(query._fields)}."
            )
        yield number, query.query_id, text


def _judged(source: Any) -> Iterator[Judged]:
    for number, judgement in enumerate(source.qrels_iter(), start=1):
        yield number, judgement.query_id, judgement.doc_id, judgement.relevance


def _documents(source: Any, dataset: str) -> Iterator[tuple[str, int, str, str]]:
    for number, document in enumerate(source.docs_iter(), start=1):
        if isinstance(getattr(document, "text", None), str):
            text = passage_text(getattr(document, "title", None), document.text)
        else:
            text = document.default_text()
        yield dataset, number, document.doc_id, text
