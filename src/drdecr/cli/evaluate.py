"""Evaluation: `drdecr eval model | run | compare | systems | bias`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from .index import INDEX, LanguageKeyOption
from .options import QueryModelOption, TokenFolderOption, check_parent, new_group
from .terminal import console, echo

app = new_group("Measure models, runs, whole systems and indexes.")


@app.command()
def model(
    checkpoint: Annotated[str, typer.Argument(metavar="MODEL", help="A checkpoint folder or Hub name.")],
    data: Annotated[Path, typer.Argument(help="YAML with `test:` (entries of question sets) and `collection:`.")],
    output: Annotated[Path | None, typer.Option(help="Write the result as JSON.")] = None,
    run: Annotated[
        Path | None, typer.Option(help="Write the best 100 passages a question as a TREC run, and qrels beside it.")
    ] = None,
    index: Annotated[
        str | None,
        typer.Option(
            help="An index of `drdecr index build` that is searched; or the checkpoint that encodes the passages: the teacher, "
            "for a student of its index."
        ),
    ] = None,
    reads: Annotated[str, typer.Option(help="Column that is asked: query, or english for a teacher.")] = "query",
    token_folder: TokenFolderOption = None,
) -> None:
    """Measure a checkpoint by language, with 95 % intervals, in the measures that the benchmark reports.

    `protocol:` in the YAML chooses them (docs/evaluation.md); without it the format of each set does.

    Example: `drdecr eval model runs/demo/relevance/model test.yaml`. More: docs/evaluation.md.
    """
    from drdecr.evaluation.evaluate import evaluate_index, evaluate_model
    from drdecr.retrieval.stored.manifest import MANIFEST_NAME

    check_parent(output)
    settings = _read_settings(data)
    if index and (Path(index) / MANIFEST_NAME).exists():
        result = evaluate_index(checkpoint, Path(index), settings, reads, run)
    else:
        result = evaluate_model(checkpoint, settings, index, reads, run, token_folder)
    _show_result(checkpoint, result, output)


@app.command("run")
def score_run(
    file: Annotated[Path, typer.Argument(metavar="RUN", help="A TREC run of any system.")],
    data: Annotated[Path, typer.Option(help="YAML with `test:` (entries of question sets) and `collection:`.")],
    output: Annotated[Path | None, typer.Option(help="Write the result as JSON.")] = None,
) -> None:
    """Measure a run file by language, as `drdecr eval model` measures a model: all protocols, R@2kt and R@5kt too.

    Example: `drdecr eval run student.run --data test.yaml`. More: docs/evaluation.md.
    """
    from drdecr.evaluation.evaluate import evaluate_run

    check_parent(output)
    _show_result(file.name, evaluate_run(file, _read_settings(data)), output)


def _read_settings(data: Path) -> Any:
    from drdecr.evaluation.evaluate import EvaluationSettings
    from drdecr.runs.config import load_settings

    return load_settings(EvaluationSettings, data, [], "`test:` and `collection:` (docs/evaluation.md)")


def _show_result(name: str, result: Any, output: Path | None) -> None:
    """Print a table for each measure and what was measured on, and write the result."""
    from drdecr.data.provenance import in_words
    from drdecr.evaluation.tables import terminal_table

    for measure in result.scores:
        console().print(terminal_table({name: result}, measure))
    echo(f"collection: {result.metadata['collection']}; {result.metadata['data_version']}")
    if peaks := in_words(result.metadata):
        echo(peaks)
    if output:
        result.to_json(output)


@app.command()
def compare(
    baseline: Annotated[Path, typer.Argument(help="TREC run of the system that is compared with.")],
    system: Annotated[Path, typer.Argument(help="TREC run of the system that should be better.")],
    qrels: Annotated[Path, typer.Argument(help="Judgements in TREC's form.")],
    measure: Annotated[list[str] | None, typer.Option(help="Such as RR@10 or nDCG@10; may be repeated.")] = None,
    languages: Annotated[
        Path | None, typer.Option(help="Lines of query id, tab, language; default: one group.")
    ] = None,
    collection: Annotated[
        str | None, typer.Option(help="What was searched, in words, for the file of --output.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write the comparison as JSON.")] = None,
) -> None:
    """Compare two runs on the same questions: paired 95 % intervals, sign-flip test, Holm's correction over languages.

    Example: `drdecr eval compare bm25.run student.run test.qrels`. More: docs/evaluation.md.
    """
    from drdecr.evaluation.results import compare_runs
    from drdecr.evaluation.tables import markdown_differences

    check_parent(output)
    measures = measure or ["RR@10"]
    comparison = compare_runs(baseline, system, qrels, measures, languages, collection)
    for name in measures:
        echo(markdown_differences(comparison, name))
    if output:
        comparison.to_json(output)


@app.command()
def systems(
    data: Annotated[Path, typer.Argument(help="YAML with `systems:`, `test:` and `collection:` (docs/retrieval.md).")],
    output: Annotated[
        Path | None, typer.Option(help="Folder for systems.md, systems.json and each system's run.")
    ] = None,
    token_folder: TokenFolderOption = None,
) -> None:
    """Compare whole systems, one step or translation first: quality, latency by part, cost, size. In one table.

    Example: `drdecr eval systems systems.yaml --output runs/systems`. More: docs/retrieval.md.
    """
    from drdecr.evaluation.systems import SystemsSettings, compare_systems, write_systems
    from drdecr.evaluation.tables import markdown_systems
    from drdecr.runs.config import load_settings

    settings = load_settings(SystemsSettings, data, [], "`systems:`, `test:` and `collection:` (docs/retrieval.md)")
    if output:
        output.mkdir(parents=True, exist_ok=True)  # an error comes before the measurement
    compared = compare_systems(settings, token_folder)
    echo(markdown_systems(compared))
    if output:
        echo(write_systems(compared, output))


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
    language_key: LanguageKeyOption = "language",
    model: QueryModelOption = None,
) -> None:
    """Measure how much the language of a document moves its rank, by question and document language.

    Needs documents that exist in several languages. An index that `drdecr index calibrate` prepared is measured with its
    scores as they are and with calibrated ones.

    Example: `drdecr eval bias runs/index questions.jsonl --output runs/bias`. More: docs/evaluation.md.
    """
    from drdecr.evaluation.fairness.bias_report import markdown_summary
    from drdecr.evaluation.fairness.index_bias import read_versions, write_bias

    rows = read_versions(questions)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)  # an error comes before the measurement
    codes = [code for code in map(str.strip, languages.split(",")) if code]
    reports = _measure_bias(folder, model, questions, rows, language_key, codes, top_k, depth)
    echo(markdown_summary(reports))
    paths: Iterator[Path] | tuple[()] = write_bias(reports, output) if output else ()
    for path in paths:
        echo(path)


def _measure_bias(
    folder: Path,
    model: str | None,
    questions: Path,
    rows: list[Any],
    key: str,
    codes: list[str],
    top_k: int,
    depth: int,
) -> dict[str, Any]:
    from drdecr.data.provenance import environment
    from drdecr.evaluation.fairness.index_bias import measure_index_bias
    from drdecr.retrieval.build import open_stored
    from drdecr.retrieval.encoder import load_index_encoder

    encoder, identity = load_index_encoder(open_stored(folder).metadata, folder, model)
    facts = {"model": identity["model"], "index": str(folder), "questions": str(questions), **environment()}
    notes = {name: facts[name] for name in ("model", "index", "questions", "command", "hardware", "git_commit")}
    return measure_index_bias(encoder, folder, rows, key, codes, top_k, depth, notes)
