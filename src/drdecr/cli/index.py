"""Indexes on disk: `drdecr index build | compress | compact | delete | calibrate`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from .options import DOCUMENTS, QueryModelOption, WhereOption, count_of, is_first_process, new_group
from .search import parse_where
from .terminal import echo

app = new_group("Encode documents into an index on disk, and look after it.")

INDEX = "An index that `drdecr index build` or `drdecr index compress` wrote."
LanguageKeyOption = Annotated[str, typer.Option("--language-key", help="Metadata that names a document's language.")]


@app.command()
def build(
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
    """Split documents into passages, encode them, and write an index that `drdecr search` reads.

    Run it again after a kill, or when documents changed: unchanged passages are not encoded again. With `accelerate launch
    -m drdecr index build` or torchrun several processes write one index together.

    Example: `drdecr index build MODEL documents.jsonl runs/index`. More: docs/retrieval.md.
    """
    from drdecr.retrieval.passages import Splitter

    splitter = Splitter(passage_tokens, overlap)
    summary = _build(model, documents, folder, splitter, batch_size, prune, precision, codec)
    if is_first_process():
        echo(f"{folder}: {summary}")


def _build(
    model: str,
    documents: str,
    folder: Path,
    splitter: Any,
    batch_size: int,
    prune: bool,
    precision: str | None,
    codec: str | None,
) -> str:
    """Encode documents into an index and return what was done in words."""
    from drdecr.data.corpus import read_documents
    from drdecr.data.provenance import PeakMemory
    from drdecr.data.shards import join_processes, num_launched
    from drdecr.retrieval.build import build_index, index_metadata, open_or_create_index
    from drdecr.retrieval.encoder import load_encoder, model_digest
    from drdecr.retrieval.precision import FASTEST, encoder_in, first_passages, resolve_codec, resolve_precision

    memory = PeakMemory()
    processes = join_processes() if num_launched() > 1 else None
    collection = read_documents(documents)
    precision, codec = resolve_precision(precision, folder), resolve_codec(codec, folder)
    if processes and precision == FASTEST:
        raise ValueError(
            "--precision fastest: each process would measure for itself. Name one: float32, bfloat16 or int8."
        )
    loaded = load_encoder(model)
    if processes:
        loaded.to(processes.device)
    splitter.room(loaded.processor)  # an error comes before anything is written
    encoder, precision = encoder_in(precision, loaded, first_passages(read_documents(documents), splitter, loaded))
    metadata, dim = index_metadata(model, model_digest(loaded), splitter), loaded.config.embedding_dim
    with open_or_create_index(folder, dim, metadata, codec, precision=precision, processes=processes) as index:
        counts = build_index(encoder, collection, index, splitter, batch_size, prune, processes=processes)
        done = [
            count_of(count, "passage") if name == "passages" else f"{count} {name}" for name, count in counts.items()
        ]
        size = f"{count_of(len(index), 'passage')}, {index.num_bytes() / 1e6:.1f} MB"
    return f"{', '.join(done)}; {size}{_peaks(memory.peaks)}"


@app.command()
def compress(
    source: Annotated[Path, typer.Argument(help="A folder that `drdecr index build` wrote.")],
    folder: Annotated[Path, typer.Argument(help="Folder of the new index.")],
    codec: Annotated[str, typer.Option(help="float16, int8, residual4, residual3 or residual2.")] = "float16",
    pool: Annotated[int, typer.Option(help="Tokens that become one.", min=1)] = 1,
) -> None:
    """Make a smaller index of encoded passages.

    Example: `drdecr index compress runs/index runs/small --codec residual2`. docs/retrieval.md has what each setting costs.
    """
    from drdecr.data.provenance import PeakMemory
    from drdecr.retrieval.build import compress_index

    memory = PeakMemory()
    added = compress_index(source, folder, codec, pool)
    echo(f"{folder}: {count_of(added, 'passage')} added; {_size(folder)}{_peaks(memory.peaks)}")


@app.command()
def compact(folder: Annotated[Path, typer.Argument(help=INDEX)]) -> None:
    """Write all passages of an index as one segment, without the deleted ones.

    Example: `drdecr index compact runs/index`. More: docs/retrieval.md.
    """
    from drdecr.retrieval.build import open_stored

    with open_stored(folder, writable=True) as index:
        index.compact()
    echo(f"{folder}: {_size(folder)}")


@app.command()
def delete(
    folder: Annotated[Path, typer.Argument(help="Folder of the index.")],
    document_ids: Annotated[list[str] | None, typer.Argument(help="Ids of documents.")] = None,
    where: WhereOption = None,
) -> None:
    """Delete documents of an index, by id or by metadata; with both, those that meet both.

    Example: `drdecr index delete runs/index doc-7 doc-9`. More: docs/retrieval.md.
    """
    from drdecr.retrieval.build import open_stored

    conditions: dict[str, Any] = parse_where(where) or {}
    if document_ids:
        allowed = conditions.get("document_id", document_ids)
        conditions["document_id"] = [name for name in document_ids if name in allowed]
    if not conditions:
        raise ValueError("delete: expected ids or --where key=value, got neither.")
    with open_stored(folder, writable=True) as opened:
        count = opened.delete(where=conditions)
        opened.commit()
    echo(f"{folder}: {count_of(count, 'passage')} deleted")


@app.command()
def calibrate(
    folder: Annotated[Path, typer.Argument(help=INDEX)],
    texts: Annotated[
        str,
        typer.Argument(
            help="Documents with their language, best the same texts in each: JSONL, TSV or parquet file, or hub:NAME."
        ),
    ],
    passages: Annotated[int, typer.Option(help="Texts of each language that are read at most.", min=2)] = 100,
    language_key: LanguageKeyOption = "language",
    model: QueryModelOption = None,
) -> None:
    """Make the scores of an index comparable across the languages of its documents.

    `drdecr search INDEX --calibrated` then scores each question against these texts too, and tells how many standard deviations
    a passage stands above those of its language. Questions need no language.

    Example: `drdecr index calibrate runs/index texts.jsonl`. More: docs/retrieval.md.
    """
    from drdecr.evaluation.fairness.index_bias import read_references
    from drdecr.retrieval.build import open_stored
    from drdecr.retrieval.calibration import CALIBRATION, LANGUAGE_KEY, check_calibration, check_languages
    from drdecr.retrieval.calibration import calibrate as encode_cohort
    from drdecr.retrieval.encoder import load_index_encoder

    index, references = open_stored(folder), read_references(texts, passages, language_key)
    encoder, identity = load_index_encoder(index.metadata, folder, model)
    check_calibration(identity, index.metadata, folder)
    cohort = encode_cohort(encoder, references, {**identity, "texts": texts, LANGUAGE_KEY: language_key})
    check_languages(index.payloads(index.passage_ids()), cohort, language_key)
    cohort.save(folder / CALIBRATION)
    counts = ", ".join(f"{len(cohort.embeddings[code])} {code}" for code in cohort.languages)
    echo(f"{folder / CALIBRATION}: {counts} passages")


def _size(folder: Path) -> str:
    from drdecr.retrieval.build import open_stored

    index = open_stored(folder)
    segments = count_of(len(index.segments), "segment")
    return f"{count_of(len(index), 'passage')} in {segments}, {index.num_bytes() / 1e6:.1f} MB"


def _peaks(peaks: dict[str, float]) -> str:
    """Return peaks of memory for the end of a line."""
    from drdecr.data.provenance import in_words

    return f"; {in_words(peaks)}" if peaks else ""
