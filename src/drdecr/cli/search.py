"""Commands about documents: `drdecr encode | index | search | rerank | remove | serve`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from .options import CalibratedOption, TranslateFromOption, TranslatorOption, WhereOption

app = typer.Typer()
DOCUMENTS = "JSONL, TSV or parquet file, folder of text files, or hub:NAME."


@app.command()
def encode(
    model: Annotated[str, typer.Argument(help="A checkpoint folder or Hub name.")],
    documents: Annotated[str, typer.Argument(help=DOCUMENTS)],
    folder: Annotated[Path, typer.Argument(help="Folder of the index; new, or one to bring up to date.")],
    passage_tokens: Annotated[int, typer.Option(help="Tokens a passage; 0: as many as the model reads.", min=0)] = 0,
    overlap: Annotated[int, typer.Option(help="Tokens that neighbouring passages share.", min=0)] = 20,
    batch_size: Annotated[int, typer.Option(help="Passages a forward pass.", min=1)] = 32,
    prune: Annotated[bool, typer.Option(help="Delete documents that are no longer in the source.")] = False,
    precision: Annotated[
        str | None, typer.Option(help="float32 (default), bfloat16, int8, or fastest: measured on the first passages.")
    ] = None,
    codec: Annotated[
        str | None, typer.Option(help="How vectors are kept: float16 (default), or int8 in half the bytes.")
    ] = None,
) -> None:
    """Split documents into passages, encode them, and keep them in a folder that `drdecr search` reads.

    Run it again after a kill, or when documents changed: what is there and the same is not encoded again.
    With `accelerate launch -m drdecr encode` or torchrun several processes write one index together.
    """
    from drdecr.data.corpus import read_documents
    from drdecr.data.provenance import PeakMemory
    from drdecr.data.shards import is_main_process, join_processes, num_launched
    from drdecr.retrieval.build import about_index, build_index, open_or_create_index
    from drdecr.retrieval.encoder import (
        FASTEST,
        choose_codec,
        choose_precision,
        encoder_in,
        load_encoder,
        model_digest,
        sample_of,
    )
    from drdecr.retrieval.passages import Splitter

    memory = PeakMemory()
    processes = join_processes() if num_launched() > 1 else None
    found = read_documents(documents)
    splitting = Splitter(passage_tokens, overlap)
    bits, kept_in = choose_precision(precision, folder), choose_codec(codec, folder)
    if processes and bits == FASTEST:
        raise ValueError(
            "--precision fastest: each process would measure for itself. Name one: float32, bfloat16 or int8."
        )
    reader = load_encoder(model)
    if processes:
        reader.to(processes.device)
    splitting.room(reader.processor)  # said before anything is written
    encoder, bits = encoder_in(bits, reader, sample_of(read_documents(documents), splitting, reader))
    about = about_index(model, model_digest(reader), splitting, bits, kept_in)
    with open_or_create_index(folder, reader.config.embedding_dim, about, kept_in, 1, processes) as index:
        counts = build_index(encoder, found, index, splitting, batch_size, prune, processes=processes)
        within = f"{format_score(len(index), 'passage')}, {index.num_bytes() / 1e6:.1f} MB"
    if is_main_process():
        typer.echo(f"{folder}: {format_counts(counts)}; {within}{format_memory(memory.peaks)}")


@app.command()
def index(
    source: Annotated[Path, typer.Argument(help="A folder that `drdecr encode` wrote.")],
    folder: Annotated[
        Path | None, typer.Argument(help="Folder of the new index; none: work on the source itself.")
    ] = None,
    codec: Annotated[str, typer.Option(help="float16, int8, residual4, residual3 or residual2.")] = "float16",
    pool: Annotated[int, typer.Option(help="Tokens that become one.", min=1)] = 1,
    compact: Annotated[bool, typer.Option(help="Write all passages as one segment, without deleted ones.")] = False,
) -> None:
    """Make a smaller index of encoded passages. docs/retrieval.md has what each setting costs."""
    from drdecr.data.provenance import PeakMemory
    from drdecr.retrieval.build import compress_index, open_stored

    memory = PeakMemory()
    if folder is not None:
        added = compress_index(source, folder, codec, pool)
        typer.echo(f"{folder}: {format_score(added, 'passage')} added{format_memory(memory.peaks)}")
    elif codec != "float16" or pool != 1:
        raise ValueError("--codec and --pool make another index. Name its folder behind the source.")
    made = folder or source
    if compact:
        with open_stored(made, writable=True) as writing:
            writing.compact()
    written = open_stored(made)
    within = f"{format_score(len(written), 'passage')} in {format_score(len(written.segments), 'segment')}"
    typer.echo(f"{made}: {within}, {written.num_bytes() / 1e6:.1f} MB{format_memory(memory.peaks)}")


@app.command()
def search(
    source: Annotated[str, typer.Argument(help="An index, or a model (folder or Hub name) for --passages.")],
    questions: Annotated[list[str] | None, typer.Argument(help="Questions in any language.")] = None,
    queries: Annotated[Path | None, typer.Option(help="JSONL, TSV or lines of questions, besides.")] = None,
    run: Annotated[Path | None, typer.Option(help="Write what is found as a TREC run.")] = None,
    passages: Annotated[
        str | None,
        typer.Option(help="For a model, which encodes them now: as of `drdecr encode`; default: the sample."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Reads the questions; default: the model that encoded.")] = None,
    top_k: Annotated[int, typer.Option(help="Documents a question.", min=1)] = 3,
    where: WhereOption = None,
    by: Annotated[str, typer.Option(help="exact, or candidates by centroids.")] = "exact",
    num_candidates: Annotated[int, typer.Option(help="Passages scored exactly, with candidates.", min=1)] = 200,
    calibrated: CalibratedOption = False,
    translate_from: TranslateFromOption = None,
    translator: TranslatorOption = None,
) -> None:
    """Answer questions in any language with the documents of an index."""
    from drdecr.data.corpus import read_queries
    from drdecr.data.teacher.translators import load_query_translator, translate_queries
    from drdecr.evaluation.runs import check_path, check_words, write_run
    from drdecr.retrieval.retriever import as_run

    asked = dict(enumerate_questions(questions or []))
    further = read_queries(queries) if queries else {}
    twice = next((name for name in further if name in asked), None)
    if twice is not None:
        raise ValueError(
            f"{queries}: query {twice!r} has the id of a question behind the index: these are q1, q2 and so on. Rename it, or "
            "search for the two apart."
        )
    asked.update(further)
    if not asked:
        raise ValueError(
            "search: expected questions, got none. Write them behind the index, or name a file: --queries."
        )
    if run is not None:
        check_path(run)
    first = load_query_translator(translate_from, translator)  # said before models are loaded
    reader = open_system(source, model, passages, by, num_candidates, calibrated)
    if run is not None:  # now, for a search may take long, and what it found would be lost
        check_words(asked, "--run, query id")
        check_words(reader.index.passage_ids(), "--run, id of a passage")
    answers = translate_queries(reader, first).answer(list(asked.values()), top_k, parse_where(where))
    if run is not None:
        write_run(run, as_run(list(asked), [answered.found for answered in answers]), tag="drdecr")
    if run is None or questions:
        for question, answered in zip(asked.values(), answers, strict=True):
            show(question, answered.found, where, answered.searched_for)


@app.command()
def rerank(
    model: Annotated[str, typer.Argument(help="A checkpoint folder or Hub name.")],
    run: Annotated[Path, typer.Argument(help="TREC run of any system.")],
    queries: Annotated[Path, typer.Argument(help="Its questions: JSONL or TSV.")],
    documents: Annotated[str, typer.Argument(help=DOCUMENTS)],
    output: Annotated[Path, typer.Argument(help="TREC run to write.")],
    top_k: Annotated[int, typer.Option(help="Documents a question that are read again.", min=1)] = 100,
) -> None:
    """Order the documents of a run anew, by the model's MaxSim."""
    from drdecr.data.corpus import read_documents, read_queries
    from drdecr.evaluation.runs import check_path, read_run, write_run
    from drdecr.retrieval.encoder import load_encoder
    from drdecr.retrieval.rerank import rerank_run

    check_path(output)
    found, asked, collection = read_run(run), read_queries(queries), read_documents(documents)
    made = rerank_run(load_encoder(model), found, asked, collection, top_k)
    typer.echo(f"run: {write_run(output, made, tag='drdecr-rerank')}")


@app.command()
def remove(
    folder: Annotated[Path, typer.Argument(help="Folder of the index.")],
    document_ids: Annotated[list[str] | None, typer.Argument(help="Ids of documents.")] = None,
    where: WhereOption = None,
) -> None:
    """Delete documents of an index, by id or by metadata; with both, those that meet both."""
    from drdecr.retrieval.build import open_stored

    wanted: dict[str, Any] = parse_where(where) or {}
    if document_ids:
        among = wanted.get("document_id", document_ids)
        wanted["document_id"] = [name for name in document_ids if name in among]
    if not wanted:
        raise ValueError("remove: expected ids or --where key=value, got neither.")
    with open_stored(folder, writable=True) as opened:
        count = opened.delete(where=wanted)
        opened.commit()
    typer.echo(f"{folder}: {format_score(count, 'passage')} deleted")


@app.command()
def serve(
    source: Annotated[str, typer.Argument(help="An index.")],
    model: Annotated[str | None, typer.Option(help="Reads the questions; default: the model that encoded.")] = None,
    host: Annotated[str, typer.Option(help="Address; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port.", min=1, max=65535)] = 8000,
    api_key: Annotated[
        str | None, typer.Option(envvar="DRDECR_API_KEY", help="Asked for in the header X-API-Key; default: none.")
    ] = None,
    by: Annotated[str, typer.Option(help="exact, or candidates by centroids.")] = "exact",
    num_candidates: Annotated[int, typer.Option(help="Passages scored exactly, with candidates.", min=1)] = 200,
    calibrated: CalibratedOption = False,
    translate_from: TranslateFromOption = None,
    translator: TranslatorOption = None,
    in_memory: Annotated[
        bool,
        typer.Option("--in-memory", help="Hold float16 or int8 vectors: faster, 1 kB a token (docs/retrieval.md)."),
    ] = False,
) -> None:
    """Serve an index over HTTP: /search, /encode, /rerank, /health; described at /docs."""
    from drdecr.data.teacher.translators import load_query_translator, translate_queries
    from drdecr.retrieval.build import check_index
    from drdecr.serve.app import ServerSettings, make_server

    check_index(source)
    first = load_query_translator(translate_from, translator)
    reader = open_system(source, model, None, by, num_candidates, calibrated, in_memory)
    make_server(translate_queries(reader, first), ServerSettings(api_key=api_key), host, port).run()


def open_system(
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
                f"{source}: --calibrated belongs to an index that `drdecr calibrate` prepared, and this is none. Make one: "
                "drdecr encode MODEL DOCUMENTS FOLDER."
            )
        if not is_checkpoint(source) and (Path(source).exists() or source.count("/") != 1):  # user/name is the Hub's
            raise FileNotFoundError(
                f"{source}: expected an index or a checkpoint, found neither. Make an index: drdecr encode MODEL DOCUMENTS "
                "FOLDER."
            )
        if model is not None or by != "exact":
            raise ValueError(
                f"{source}: --model and --by belong to an index; a model reads and scores every passage by itself. "
                "Leave them out, or make an index: drdecr encode MODEL DOCUMENTS FOLDER."
            )
        return system_in_memory(source, passages)
    if passages is not None:
        raise ValueError(f"--passages belongs to a model, and {source} is an index. Leave one of them out.")
    found = open_index(source, by, num_candidates, in_memory=in_memory)
    reader, _ = load_index_encoder(getattr(found, "about", {}), source, model)
    if calibrated:
        from drdecr.retrieval.calibration import open_calibrated

        found = open_calibrated(source, found)
    return DirectRetriever(reader, found)


def system_in_memory(model: str, passages: str | None) -> Any:
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
    loaded = load_encoder(model)
    found = ExactIndex(list(collection), loaded.encode_documents(list(collection.values())))
    return DirectRetriever(loaded, InMemoryIndex(found, collection))


def enumerate_questions(questions: list[str]) -> list[tuple[str, str]]:
    """Number questions of the command line: `q1`, `q2` ..."""
    return [(f"q{number}", question) for number, question in enumerate(questions, start=1)]


def parse_where(pairs: list[str] | None) -> dict[str, Any] | None:
    """Read `key=value` pairs; a key that stands several times may have each of its values; numbers and true are such."""
    import json

    wanted: dict[str, list[Any]] = {}
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
        wanted.setdefault(key, []).extend([value, text] if value != text else [value])
    return dict(wanted) or None


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number in JSON.")


def show(question: str, found: list[Any], where: list[str] | None = None, searched_for: str | None = None) -> None:
    """Print what was found for a question, under it the translation that was searched for; if it is nothing, by which filter."""
    console = Console(markup=False)  # a passage may hold [brackets]
    title = question if searched_for is None else f"{question}\nsearched for: {searched_for}"
    table = Table(title=title, title_justify="left", show_edge=False, show_header=False)
    for one in found:
        heading = f"{one.title}: " if one.title else ""
        table.add_row(f"{one.score:.2f}", one.document_id, f"{heading}{one.text}"[:160])
    if found:
        console.print(table)
    else:  # of a table without rows the title is not printed either
        filtered = f" with {' '.join(f'--where {pair}' for pair in where)}" if where else ""
        console.print(f"{title}\n  nothing found{filtered}", highlight=False, soft_wrap=True)


def format_score(count: int, noun: str) -> str:
    """Return `1 passage`, `2 passages`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def format_memory(peaks: dict[str, float]) -> str:
    """Return peaks of memory for the end of a line."""
    from drdecr.data.provenance import in_words

    return f"; {in_words(peaks)}" if peaks else ""


def format_counts(counts: dict[str, int]) -> str:
    """Return counts of `encode_collection` in words; those of documents stand alone."""
    return ", ".join(
        format_score(count, "passage") if name == "passages" else f"{count} {name}" for name, count in counts.items()
    )
