"""The command line: `drdecr demo | distil | train | evaluate | compare | search | page | convert | export-data | push ...`."""

import logging
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from . import __version__
from .errors import SHOWN, in_one_line

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Cross-lingual late-interaction retrieval: distil a multilingual ColBERT student from an English teacher.",
)
EXTRA = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.command(context_settings=EXTRA)
def demo(
    context: typer.Context,
    output: Annotated[str | None, typer.Option(help="Folder of the run; default runs/demo.")] = None,
    quick: Annotated[bool, typer.Option(help="Two steps a stage: checks that everything works.")] = False,
) -> None:
    """Train a student through every stage on the sample data, measure it, and let it answer in eight languages.

    Needs neither the Hub nor a GPU. Other `--key value` pairs go to every stage's recipe.
    """
    from .demo import run_demo

    run_demo(output, quick, context.args)


@app.command(context_settings=EXTRA)
def distil(
    context: typer.Context,
    pipeline: Annotated[Path, typer.Argument(help="A folder with pipeline.yaml and one recipe a stage.")],
    output: Annotated[str | None, typer.Option(help="Folder of the run; default: the pipeline's own.")] = None,
) -> None:
    """Run the stages of a pipeline one after the other, measure each, and write table, charts and model card.

    What is done already is not done again; an interrupted stage resumes.
    """
    from .pipeline import load_pipeline, run_pipeline

    student = run_pipeline(load_pipeline(pipeline, output), context.args)
    typer.echo(f"student: {student}")


@app.command(context_settings=EXTRA)
def train(
    context: typer.Context,
    recipe: Annotated[Path, typer.Argument(help="A YAML recipe of one stage.")],
) -> None:
    """Run one stage. `--key value` overrides the recipe: `--learning_rate 1e-5 --data.dev_texts 8 --output runs/mine`.

    On several devices: `accelerate launch -m drdecr.train RECIPE.yaml [--key value ...]`.
    """
    from .recipe import load_recipe
    from .stage import run_stage

    typer.echo(f"model: {run_stage(load_recipe(recipe, context.args))}")


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="A checkpoint folder or Hub name.")],
    data: Annotated[Path, typer.Argument(help="YAML with `test:` (entries of question sets) and `collection:`.")],
    output: Annotated[Path | None, typer.Option(help="Write the result as JSON.")] = None,
    run: Annotated[
        Path | None, typer.Option(help="Write the best 100 passages a question as a TREC run, and qrels beside it.")
    ] = None,
    index: Annotated[
        str | None, typer.Option(help="Checkpoint that encodes the passages: the teacher, for a student of its index.")
    ] = None,
    reads: Annotated[str, typer.Option(help="Column that is asked: query, or english for a teacher.")] = "query",
) -> None:
    """Measure a checkpoint by language, with 95 % intervals: MRR@10, recall and nDCG, or R@2kt and R@5kt for answers alone."""
    from drdecr.evaluation.report import terminal_table

    from .measuring import measure_checkpoint

    if output and not output.parent.is_dir():
        raise FileNotFoundError(f"{output}: expected its folder to exist. Make {output.parent} first.")
    result = measure_checkpoint(model, data, index, reads, run)
    for name in [name for name in ("RR@10", "R@2kt", "R@5kt") if name in result.scores]:
        Console().print(terminal_table({model: result}, name))
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
    output: Annotated[Path | None, typer.Option(help="Write the comparison as JSON.")] = None,
) -> None:
    """Compare two runs on the same questions: paired 95 % intervals, sign-flip test, Holm's correction over languages."""
    from drdecr.evaluation.report import markdown_differences

    from .measuring import compare_runs

    measures = measure or ["RR@10"]
    found = compare_runs(baseline, system, qrels, measures, languages)
    for name in measures:
        typer.echo(markdown_differences(found, name))
    if output:
        found.to_json(output)


@app.command()
def search(
    model: Annotated[str, typer.Argument(help="A checkpoint folder or Hub name.")],
    questions: Annotated[list[str], typer.Argument(help="Questions in any language.")],
    passages: Annotated[
        Path | None, typer.Option(help="JSON Lines with document_id and text; default: the sample.")
    ] = None,
    top_k: Annotated[int, typer.Option(help="Passages a question.", min=1)] = 3,
) -> None:
    """Answer questions in any language with English passages."""
    from drdecr.data.formats import read_passages
    from drdecr.data.sample_data import read_sample_questions
    from drdecr.retrieval import ExactIndex

    from .measuring import load_reader

    collection = read_passages(str(passages)) if passages else read_sample_questions("test").passages
    loaded = load_reader(model)
    index = ExactIndex(list(collection), loaded.encode_documents(list(collection.values())))
    hits = index.search(loaded.encode_queries(questions), top_k=top_k)
    for question, ids, scores in zip(questions, hits.document_ids, hits.scores, strict=True):
        table = Table(title=question, title_justify="left", show_edge=False, show_header=False)
        for document_id, score in zip(ids, scores, strict=True):
            table.add_row(f"{score:.2f}", document_id, collection[document_id][:160])
        Console(markup=False).print(table)  # a passage may hold [brackets]


@app.command()
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
    results: Annotated[Path | None, typer.Option(help="A run's folder `results`; default: the demo's.")] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 opens the page to the network.")
    ] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="Default: the first free one from 7860 on.")] = None,
) -> None:
    """Open a page in the browser: ask in any language, see the matched tokens, the token alignment and the results.

    Without MODEL it shows what `drdecr demo` made. Needs the extra `page`; nothing is asked of any other host.
    """
    from .page import run_page

    run_page(model, teacher, passages, results, host, port)


@app.command("export-data", context_settings=EXTRA)
def export_data(
    context: typer.Context,
    recipe: Annotated[Path, typer.Argument(help="A YAML recipe of one stage.")],
    folder: Annotated[Path, typer.Argument(help="Folder of the dataset; left alone if it holds this recipe's export.")],
    push: Annotated[str | None, typer.Option(help="Hub name of a dataset that it is pushed to, in one commit.")] = None,
    private: Annotated[bool, typer.Option(help="Make a new dataset private.")] = False,
    tokens: Annotated[
        str, typer.Option(help="The teacher's tokens too: none, queries or all (passages too).")
    ] = "none",
    license: Annotated[str | None, typer.Option(help="Licence of the whole, for the card.")] = None,
) -> None:
    """Write a recipe's cleaned and annotated sets as parquet files with a data card, for `load_dataset` and other recipes.

    `--key value` overrides the recipe as in `drdecr train`.
    """
    from drdecr.data.export import push_dataset

    from .export import export_data
    from .recipe import load_recipe

    typer.echo(f"dataset: {export_data(load_recipe(recipe, context.args), folder, tokens, license)}")
    if push:
        typer.echo(f"pushed: {push}, revision {push_dataset(folder, push, private)}")


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(help="A finished run, or a model's folder.")],
    repository: Annotated[str, typer.Argument(help="Its name on the Hub: user/name.")],
    private: Annotated[bool, typer.Option("--private", help="Make the repository private if it is new.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch that is pushed to; default: main.")] = None,
    tag: Annotated[str | None, typer.Option(help="Name for what is pushed, such as v1.0.")] = None,
) -> None:
    """Push a model with its code and card to the Hub, in one commit. After a failure, run it again: it goes on."""
    from .hub import push_folder

    typer.echo(push_folder(folder, repository, private, revision, tag))


@app.command(name="convert")
def convert_checkpoint(
    source: Annotated[Path, typer.Argument(help="A .dnn file or a checkpoint folder; its format is found out.")],
    destination: Annotated[Path, typer.Argument(help="Folder to write.")],
    to: Annotated[str, typer.Option(help="drdecr, stanford, pylate or sentence-transformers.")] = "drdecr",
    base: Annotated[str | None, typer.Option(help="Encoder of a .dnn: a folder or Hub name.")] = None,
    embedding_dim: Annotated[int, typer.Option(help="Width of a bare encoder's new projection.", min=1)] = 128,
    overwrite: Annotated[bool, typer.Option(help="Replace the destination.")] = False,
) -> None:
    """Convert a checkpoint from PrimeQA, Stanford ColBERT, PyLate, sentence-transformers or a bare encoder, or back.

    Nothing of the source is executed: a pickle that holds more than tensors and plain values is refused.
    """
    from .convert import convert

    for note in convert(source, destination, to, base, embedding_dim, overwrite):
        typer.echo(f"note: {note}")
    typer.echo(f"{to}: {destination}")


@app.command()
def backbone() -> None:
    """Unpack the offline encoder (multilingual-e5-small) and print its folder."""
    from drdecr.data.offline_backbone import prepare_offline_backbone

    typer.echo(prepare_offline_backbone())


@app.callback(invoke_without_command=True)
def common(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show a traceback with an error.")] = False,  # see `main`
) -> None:
    """Options before the command."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for noisy in ("httpx", "httpx2", "httpcore", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line; errors that name their cure are shown as one line, not as a traceback."""
    import sys

    try:
        app()
    except SHOWN as error:
        if "--verbose" in sys.argv:
            raise
        Console(stderr=True, soft_wrap=True).print(in_one_line(error), markup=False, style="red")
        sys.exit(1)
