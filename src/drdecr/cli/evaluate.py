"""Commands about documents in several languages: `drdecr bias | calibrate`."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()

INDEX = "An index that `drdecr encode` or `drdecr index` wrote."
KeyOption = Annotated[str, typer.Option(help="Metadata of a document that names its language.")]
ModelOption = Annotated[str | None, typer.Option(help="Default: the model that encoded the index.")]


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
    language_key: KeyOption = "language",
    model: ModelOption = None,
) -> None:
    """Make the scores of an index comparable across the languages of its documents.

    `drdecr search INDEX --calibrated` then scores each question against these texts too, and tells how many standard deviations
    a passage stands above those of its language. Questions need no language.
    """
    from drdecr.evaluation.fairness.index_bias import read_references
    from drdecr.retrieval.build import open_stored
    from drdecr.retrieval.calibration import CALIBRATION, LANGUAGE_KEY, check_calibration, check_languages
    from drdecr.retrieval.calibration import calibrate as encode_cohort
    from drdecr.retrieval.encoder import load_index_encoder

    index, references = open_stored(folder), read_references(texts, passages, language_key)
    reader, own = load_index_encoder(index.about, folder, model)
    check_calibration(own, index.about, folder)
    cohort = encode_cohort(reader, references, {**own, "texts": texts, LANGUAGE_KEY: language_key})
    check_languages(index.payloads(index.passage_ids()), cohort, language_key)
    cohort.save(folder / CALIBRATION)
    counts = ", ".join(f"{len(cohort.embeddings[code])} {code}" for code in cohort.languages)
    typer.echo(f"{folder / CALIBRATION}: {counts} passages")


@app.command()
def bias(
    folder: Annotated[Path, typer.Argument(help=INDEX)],
    questions: Annotated[
        Path,
        typer.Argument(
            help="JSONL with query_id, query, language and document_ids: the right document in each of its languages."
        ),
    ],
    output: Annotated[Path | None, typer.Option(help="Folder for bias.md, bias.png and bias.json.")] = None,
    languages: Annotated[str, typer.Option(help="Languages of documents, by commas; default: all of the index.")] = "",
    top_k: Annotated[int, typer.Option(help="Places of a ranking that are looked at.", min=1)] = 10,
    depth: Annotated[int, typer.Option(help="Passages a question that are ranked.", min=1)] = 1000,
    language_key: KeyOption = "language",
    model: ModelOption = None,
) -> None:
    """Measure how much the language of a document moves its rank, by question and document language.

    Needs documents that exist in several languages. An index that `drdecr calibrate` prepared is measured with its scores as
    they are and with calibrated ones.
    """
    from drdecr.data.provenance import environment
    from drdecr.evaluation.bias_report import markdown_summary
    from drdecr.evaluation.fairness.index_bias import measure_index_bias, read_versions, write_bias
    from drdecr.retrieval.build import open_stored
    from drdecr.retrieval.encoder import load_index_encoder

    index, rows = open_stored(folder), read_versions(questions)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)  # said now: what was measured would be lost
    reader, own = load_index_encoder(index.about, folder, model)
    about = {"model": own["model"], "index": str(folder), "questions": str(questions), **environment()}
    notes = {key: about[key] for key in ("model", "index", "questions", "command", "hardware", "git_commit")}
    chosen = [code for code in map(str.strip, languages.split(",")) if code]
    reports = measure_index_bias(reader, folder, rows, language_key, chosen, top_k, depth, notes)
    typer.echo(markdown_summary(reports))
    for path in write_bias(reports, output) if output else ():
        typer.echo(path)
