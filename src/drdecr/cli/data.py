"""Data for training: `drdecr data sources | prepare | translate | mine | annotate | export`."""

from pathlib import Path
from typing import Annotated

import typer

from .options import OVERRIDES, LicenseOption, is_first_process, new_group
from .terminal import console, echo

app = new_group("Make training data: prepare public sources, translate, mine candidates, score them with a teacher.")


@app.command()
def sources(
    name: Annotated[str | None, typer.Argument(help="A source, to see its home, licence and files.")] = None,
) -> None:
    """List the public sources that are known by name, or show one of them.

    Example: `drdecr data sources mkqa`. More: docs/sources.md.
    """
    from drdecr.data.prepare.catalog import source_in_words, source_table

    if name is None:
        console().print(source_table())
    else:
        echo(source_in_words(name))


@app.command()
def prepare(
    recipe: Annotated[
        Path | None, typer.Argument(help="YAML with `sources:` and perhaps `held_out:`, `cleaning:`.")
    ] = None,
    folder: Annotated[Path | None, typer.Argument(help="Folder to write; it appears when all is done.")] = None,
    verify: Annotated[Path | None, typer.Option(help="Check every shard of a prepared folder instead.")] = None,
    processes: Annotated[int, typer.Option(help="Processes that check rows.", min=1)] = 1,
    download: Annotated[bool, typer.Option(help="Get the known sources' files that are not in $DRDECR_DATA.")] = False,
) -> None:
    """Read, clean and shard public sources, with a record of where every row comes from.

    A call that was killed goes on when it is given again.

    Example: `drdecr data prepare RECIPE.yaml FOLDER`. More: docs/sources.md.
    """
    from drdecr.data.prepare.prepare import PrepareRecipe
    from drdecr.data.prepare.prepare import prepare as run
    from drdecr.data.prepare.prepared_shards import verify as verify_folder
    from drdecr.runs.config import load_settings

    if verify is not None:
        echo(f"{verify}: {verify_folder(verify)} shards are as they were written.")
    elif recipe is None or folder is None:
        raise ValueError("Expected RECIPE.yaml and FOLDER, or --verify FOLDER. See `drdecr data prepare --help`.")
    else:
        settings = load_settings(PrepareRecipe, recipe, [], "`sources:` (docs/sources.md)")
        echo(f"prepared: {run(settings, folder, processes, download)}")


@app.command(context_settings=OVERRIDES)
def translate(
    context: typer.Context,
    data: Annotated[
        Path, typer.Argument(help="YAML: `questions:`, `parallel:` or `texts:`, `engine:` and perhaps `model:`.")
    ],
    output: Annotated[
        Path, typer.Argument(help="Folder of the dataset; left alone if it was made with these settings.")
    ],
    license: LicenseOption = None,
) -> None:
    """Translate questions or sentences by Apertium, a sequence-to-sequence or a chat model, each text once.

    Into English it makes what a teacher reads, in training and in tests (`drdecr eval model --reads english`); with
    `--target fi` it makes questions out of English ones. Other `--key value` pairs override the YAML: `--engine apertium`,
    `--model facebook/nllb-200-distilled-600M`, `--min_score -1.5`, `--length_factor 3`, `--min_round_trip 0.4`. A call that was
    killed goes on when it is given again.

    Example: `drdecr data translate translate.yaml runs/translated`. More: docs/teaching.md.
    """
    from drdecr.data.teacher.translate import TranslationSettings
    from drdecr.data.teacher.translate import translate as run
    from drdecr.runs.config import load_settings

    settings = load_settings(TranslationSettings, data, context.args, "what is translated (docs/teaching.md)")
    _print_folder(run(settings, output, license))


@app.command(context_settings=OVERRIDES)
def mine(
    context: typer.Context,
    data: Annotated[
        Path, typer.Argument(help="YAML: `questions:`, `corpus:`, `method:` bm25 or model, `teacher:` ...")
    ],
    output: Annotated[
        Path, typer.Argument(help="Folder of the dataset; left alone if it was made with these settings.")
    ],
    license: LicenseOption = None,
) -> None:
    """Find positives by their answers and hard negatives by BM25 or across languages with a model, into n-way rows.

    Other `--key value` pairs override the YAML: `--method model --reader runs/mine/student/model --teacher
    runs/mine/teacher/model --num_candidates 8 --max_share 0.95`; of a
    large pool `--codec residual4 --search.by centroids` scores candidates alone.
    Passages lie on disk, rows go out part by part, and a call that was killed goes on when it is given again.

    Example: `drdecr data mine mine.yaml runs/mined`. More: docs/teaching.md.
    """
    from drdecr.data.teacher.mine import MiningSettings
    from drdecr.data.teacher.mine import mine as run
    from drdecr.runs.config import load_settings

    settings = load_settings(MiningSettings, data, context.args, "what is mined where (docs/teaching.md)")
    _print_folder(run(settings, output, license))


@app.command()
def annotate(
    rows: Annotated[str, typer.Argument(help="Folder or Hub name of candidates, as `drdecr data mine` writes them.")],
    output: Annotated[
        Path, typer.Argument(help="Folder of the dataset; left alone if it was made with these settings.")
    ],
    teacher: Annotated[str | None, typer.Option(help="Checkpoint: MaxSim of the English question.")] = None,
    cross_encoder: Annotated[
        str | None, typer.Option(help="Or a checkpoint with a sequence-classification head of one or two outputs.")
    ] = None,
    scores: Annotated[
        str | None,
        typer.Option(help="Or a file: TSV of query id, document id, score; a TREC run; or n-way JSON Lines."),
    ] = None,
    config: Annotated[str, typer.Option(help="Configuration of the rows.")] = "mined_candidates",
    split: Annotated[str, typer.Option(help="Split of the rows.")] = "train",
    revision: Annotated[str | None, typer.Option(help="Of the rows, on the Hub.")] = None,
    scorer_revision: Annotated[str | None, typer.Option(help="Of a cross-encoder on the Hub.")] = None,
    reads: Annotated[str, typer.Option(help="Column that a cross-encoder reads: english or query.")] = "english",
    tokens: Annotated[
        str, typer.Option(help="The teacher's tokens too: none, queries or all (passages too).")
    ] = "none",
    token_folder: Annotated[
        str | None,
        typer.Option(help="Where the teacher's tokens are kept for other calls and runs (`data.token_folder`)."),
    ] = None,
    dtype: Annotated[str, typer.Option(help="Precision of the scorer.")] = "float32",
    token_dtype: Annotated[str, typer.Option(help="Precision of the kept tokens.")] = "float16",
    batch_size: Annotated[int, typer.Option(help="Texts or pairs read at once.", min=1)] = 32,
    max_length: Annotated[int, typer.Option(help="Tokens of a pair, of a cross-encoder.", min=8)] = 512,
    rows_per_shard: Annotated[int, typer.Option(help="Rows a file: what a kill can lose.", min=1)] = 1024,
    license: LicenseOption = None,
) -> None:
    """Score every candidate with a teacher, a cross-encoder or a file, into a dataset that recipes learn from.

    A call that was killed goes on when it is given again.

    Example: `drdecr data annotate runs/mined runs/scored --teacher runs/teacher/model`. On several devices:
    `accelerate launch -m drdecr data annotate ...`. More: docs/teaching.md.
    """
    from drdecr.data.teacher.annotate import AnnotationSettings
    from drdecr.data.teacher.annotate import annotate as run

    settings = AnnotationSettings(
        rows=rows,
        teacher=teacher,
        cross_encoder=cross_encoder,
        scores=scores,
        config=config,
        split=split,
        revision=revision,
        scorer_revision=scorer_revision,
        reads=reads,
        tokens=tokens,
        token_folder=token_folder,
        dtype=dtype,
        token_dtype=token_dtype,
        batch_size=batch_size,
        max_length=max_length,
        rows_per_shard=rows_per_shard,
    )
    _print_folder(run(settings, output, license))


@app.command(context_settings=OVERRIDES)
def export(
    context: typer.Context,
    recipe: Annotated[Path, typer.Argument(help="A YAML recipe of one stage.")],
    folder: Annotated[Path, typer.Argument(help="Folder of the dataset; left alone if it holds this recipe's export.")],
    tokens: Annotated[
        str, typer.Option(help="The teacher's tokens too: none, queries or all (passages too).")
    ] = "none",
    license: LicenseOption = None,
) -> None:
    """Write a recipe's cleaned and annotated sets as parquet files with a data card, for `load_dataset` and other recipes.

    `--key value` overrides the recipe as in `drdecr train`.

    Example: `drdecr data export recipes/demo/relevance.yaml runs/exported`. More: docs/datasets.md.
    """
    from drdecr.runs.export import export_data
    from drdecr.runs.recipe import load_recipe

    _print_folder(export_data(load_recipe(recipe, context.args), folder, tokens, license))


def _print_folder(folder: Path) -> None:
    """Print where a dataset was written; of several processes the first one does."""
    if is_first_process():
        echo(f"dataset: {folder}")
