"""Searching: `drdecr search | rerank | serve | page`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from .options import (
    DOCUMENTS,
    CalibratedOption,
    CandidatesOption,
    QueryModelOption,
    SearchByOption,
    TranslateFromOption,
    TranslatorOption,
    WhereOption,
    check_address,
)
from .terminal import console, echo


def search(
    source: Annotated[str, typer.Argument(help="An index, or a model (folder or Hub name) for --passages.")],
    questions: Annotated[list[str] | None, typer.Argument(help="Questions in any language.")] = None,
    queries: Annotated[Path | None, typer.Option(help="JSONL, TSV or lines of questions, besides.")] = None,
    run: Annotated[Path | None, typer.Option(help="Write what is found as a TREC run.")] = None,
    passages: Annotated[
        str | None,
        typer.Option(
            help="For a model, which encodes them now: in the forms of `drdecr index build`; default: the sample."
        ),
    ] = None,
    model: QueryModelOption = None,
    top_k: Annotated[int, typer.Option(help="Documents a question.", min=1)] = 3,
    where: WhereOption = None,
    by: SearchByOption = "exact",
    num_candidates: CandidatesOption = 200,
    calibrated: CalibratedOption = False,
    translate_from: TranslateFromOption = None,
    translator: TranslatorOption = None,
) -> None:
    """Answer questions in any language with the documents of an index.

    Example: `drdecr search runs/index "Kuka rakensi majakan?"`. More: docs/retrieval.md.
    """
    from drdecr.data.teacher.translators import load_query_translator, translate_queries
    from drdecr.evaluation.runs import check_path, check_words, write_run
    from drdecr.retrieval.retriever import as_run

    texts = gather_questions(questions or [], queries)
    if run is not None:
        check_path(run)
    query_translator = load_query_translator(translate_from, translator)  # an error comes before models are loaded
    retriever = open_retriever(source, model, passages, by, num_candidates, calibrated)
    if run is not None:  # an error comes before the search, whose results would be lost
        check_words(texts, "--run, query id")
        check_words(retriever.index.passage_ids(), "--run, id of a passage")
    results = translate_queries(retriever, query_translator).answer(list(texts.values()), top_k, parse_where(where))
    if run is not None:
        write_run(run, as_run(list(texts), [result.documents for result in results]), tag="drdecr")
    if run is None or questions:
        for question, result in zip(texts.values(), results, strict=True):
            show_documents(question, result.documents, where, result.searched_for)


def rerank(
    model: Annotated[str, typer.Argument(help="A checkpoint folder or Hub name.")],
    run: Annotated[Path, typer.Argument(help="TREC run of any system.")],
    queries: Annotated[Path, typer.Argument(help="Its questions: JSONL or TSV.")],
    documents: Annotated[str, typer.Argument(help=DOCUMENTS)],
    output: Annotated[Path, typer.Argument(help="TREC run to write.")],
    top_k: Annotated[int, typer.Option(help="Documents a question that are read again.", min=1)] = 100,
) -> None:
    """Order the documents of a run anew, by the model's MaxSim.

    Example: `drdecr rerank MODEL bm25.run questions.tsv documents.jsonl reranked.run`. More: docs/retrieval.md.
    """
    from drdecr.data.corpus import read_documents, read_queries
    from drdecr.evaluation.runs import check_path, read_run, write_run
    from drdecr.retrieval.encoder import load_encoder
    from drdecr.retrieval.rerank import rerank_run

    check_path(output)
    ranking, texts, collection = read_run(run), read_queries(queries), read_documents(documents)
    reranked = rerank_run(load_encoder(model), ranking, texts, collection, top_k)
    echo(f"run: {write_run(output, reranked, tag='drdecr-rerank')}")


def serve(
    source: Annotated[str, typer.Argument(help="An index.")],
    model: QueryModelOption = None,
    host: Annotated[str, typer.Option(help="Address; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port.", min=1, max=65535)] = 8000,
    api_key: Annotated[
        str | None, typer.Option(envvar="DRDECR_API_KEY", help="Asked for in the header X-API-Key; default: none.")
    ] = None,
    by: SearchByOption = "exact",
    num_candidates: CandidatesOption = 200,
    calibrated: CalibratedOption = False,
    translate_from: TranslateFromOption = None,
    translator: TranslatorOption = None,
    in_memory: Annotated[
        bool,
        typer.Option("--in-memory", help="Hold float16 or int8 vectors: faster, 1 kB a token (docs/retrieval.md)."),
    ] = False,
) -> None:
    """Serve an index over HTTP: /search, /encode, /rerank, /health; described at /docs.

    Example: `drdecr serve runs/index --port 8080`. More: docs/retrieval.md.
    """
    from drdecr.data.teacher.translators import load_query_translator, translate_queries
    from drdecr.retrieval.build import check_index
    from drdecr.serve.app import ServerSettings, make_server

    check_index(source)
    check_address(host, port)
    query_translator = load_query_translator(translate_from, translator)
    retriever = open_retriever(source, model, None, by, num_candidates, calibrated, in_memory)
    make_server(translate_queries(retriever, query_translator), ServerSettings(api_key=api_key), host, port).run()


def page(
    model: Annotated[
        str | None, typer.Argument(help="The student, a checkpoint folder or Hub name; default: the demo's.")
    ] = None,
    passages: Annotated[
        Path | None, typer.Option(help="JSON Lines with document_id and text; default: the sample.")
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="Checkpoint that reads the English; default: the demo's, or MODEL itself.")
    ] = None,
    index: Annotated[Path | None, typer.Option(help="Index that MODEL encoded, in place of --passages.")] = None,
    teacher_index: Annotated[Path | None, typer.Option(help="Index that the teacher encoded.")] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 opens the page to the network.")
    ] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="Default: the first free one from 7860 on.")] = None,
    translate_from: TranslateFromOption = None,
    translator: TranslatorOption = None,
) -> None:
    """Open a page in the browser: ask in any language, see the matched tokens and the token alignment.

    Without MODEL it shows what `drdecr demo` made. Passages are encoded once and kept for the next time. Needs the extra
    `page`; nothing is asked of any other host. With a translator the English of a question may be left empty.

    Example: `drdecr page`. More: docs/page.md.
    """
    from drdecr.data.teacher.translators import load_query_translator
    from drdecr.page.app import PageSources, run_page

    check_address(host, port)
    sources = PageSources(model, teacher, passages, index, teacher_index)
    run_page(sources, host, port, load_query_translator(translate_from, translator))


def open_retriever(
    source: str,
    model: str | None,
    passages: str | None = None,
    by: str = "exact",
    num_candidates: int = 200,
    calibrated: bool = False,
    in_memory: bool = False,
) -> Any:
    """Open an index with the model that made it; or a model over passages in memory."""
    from drdecr.retrieval.build import is_index
    from drdecr.retrieval.encoder import is_checkpoint, load_index_encoder
    from drdecr.retrieval.retriever import DirectRetriever, open_index

    if not is_index(source):
        if calibrated:
            raise ValueError(
                f"{source}: --calibrated belongs to an index that `drdecr index calibrate` prepared, and this is none. Make one: "
                "drdecr index build MODEL DOCUMENTS FOLDER."
            )
        if not is_checkpoint(source) and (Path(source).exists() or source.count("/") != 1):  # user/name is the Hub's
            raise FileNotFoundError(
                f"{source}: expected an index or a checkpoint, found neither. Make an index: drdecr index build MODEL DOCUMENTS "
                "FOLDER."
            )
        if model is not None or by != "exact":
            raise ValueError(
                f"{source}: --model and --by belong to an index; a model reads and scores every passage by itself. "
                "Leave them out, or make an index: drdecr index build MODEL DOCUMENTS FOLDER."
            )
        return encode_in_memory(source, passages)
    if passages is not None:
        raise ValueError(f"--passages belongs to a model, and {source} is an index. Leave one of them out.")
    index = open_index(source, by, num_candidates, in_memory=in_memory)
    encoder, _ = load_index_encoder(getattr(index, "metadata", {}), source, model)
    if calibrated:
        from drdecr.retrieval.calibration import open_calibrated

        index = open_calibrated(source, index)
    return DirectRetriever(encoder, index)


def encode_in_memory(model: str, passages: str | None) -> Any:
    """Encode a small collection, by default the sample, and search it in memory; documents are not cut into passages."""
    from drdecr.data.corpus import read_documents
    from drdecr.data.offline.sample import read_sample_questions
    from drdecr.retrieval import ExactIndex
    from drdecr.retrieval.encoder import load_encoder
    from drdecr.retrieval.exact import InMemoryIndex
    from drdecr.retrieval.passages import passage_text
    from drdecr.retrieval.retriever import DirectRetriever

    collection = (
        {document.document_id: passage_text(document.title, document.text) for document in read_documents(passages)}
        if passages
        else read_sample_questions("test").passages
    )
    encoder = load_encoder(model)
    index = ExactIndex(list(collection), encoder.encode_documents(list(collection.values())))
    return DirectRetriever(encoder, InMemoryIndex(index, collection))


def gather_questions(questions: list[str], queries: Path | None) -> dict[str, str]:
    """Return `{query_id: question}` of the command line (`q1`, `q2` ...) and of a file.

    Raises:
        ValueError: if there is no question, or the file has an id of the command line.
    """
    texts = {f"q{number}": question for number, question in enumerate(questions, start=1)}
    if queries:
        from drdecr.data.corpus import read_queries

        from_file = read_queries(queries)
        twice = next((name for name in from_file if name in texts), None)
        if twice is not None:
            raise ValueError(
                f"{queries}: query {twice!r} has the id of a question behind the index: these are q1, q2 and so on. Rename "
                "it, or search for the two apart."
            )
        texts.update(from_file)
    if not texts:
        raise ValueError(
            "search: expected questions, got none. Write them behind the index, or name a file: --queries."
        )
    return texts


def parse_where(pairs: list[str] | None) -> dict[str, Any] | None:
    """Read `key=value` pairs; a key that stands several times may have each of its values; numbers and true are such."""
    import json

    conditions: dict[str, list[Any]] = {}
    for pair in pairs or []:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ValueError(f"--where: expected key=value, got {pair!r}. Write --where language=en.")
        try:
            value = json.loads(text, parse_constant=_no_number)
        except (ValueError, RecursionError):
            value = text
        if value is None:  # no document has it, and some are called so
            value = text
        # Whether "1" is a number cannot be seen here; a text of digits is as likely.
        conditions.setdefault(key, []).extend([value, text] if value != text else [value])
    return dict(conditions) or None


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number in JSON.")


def show_documents(
    question: str, documents: list[Any], where: list[str] | None = None, searched_for: str | None = None
) -> None:
    """Print the documents of a question and its translation, if it was translated; if there are none, name the filter."""
    from rich.table import Table

    title = question if searched_for is None else f"{question}\nsearched for: {searched_for}"
    table = Table(title=title, title_justify="left", show_edge=False, show_header=False)
    for document in documents:
        heading = f"{document.title}: " if document.title else ""
        table.add_row(f"{document.score:.2f}", document.document_id, f"{heading}{document.text}"[:160])
    if documents:
        console().print(table)
    else:  # of a table without rows the title is not printed either
        filtered = f" with {' '.join(f'--where {pair}' for pair in where)}" if where else ""
        console().print(f"{title}\n  nothing found{filtered}", highlight=False, soft_wrap=True)
