"""Commands that let a teacher speak: `drdecr translate | mine | annotate`."""

from pathlib import Path
from typing import Annotated

import typer

EXTRA = {"allow_extra_args": True, "ignore_unknown_options": True}
LICENSE = Annotated[str | None, typer.Option(help="Licence of the whole, for the card.")]
PUSH = Annotated[str | None, typer.Option(help="Hub name of a dataset that it is pushed to, in one commit.")]
PRIVATE = Annotated[bool, typer.Option(help="Make a new dataset private.")]


def translate(
    context: typer.Context,
    data: Annotated[
        Path, typer.Argument(help="YAML: `questions:`, `parallel:` or `texts:`, `engine:` and perhaps `model:`.")
    ],
    output: Annotated[
        Path, typer.Argument(help="Folder of the dataset; left alone if it was made with these settings.")
    ],
    license: LICENSE = None,
    push: PUSH = None,
    private: PRIVATE = False,
) -> None:
    """Translate questions or sentences by Apertium, a sequence-to-sequence or a chat model, each text once.

    Into English it makes what a teacher reads, in training and in tests (`drdecr evaluate --reads english`); with
    `--target fi` it makes questions out of English ones. Other `--key value` pairs override the YAML: `--engine apertium`,
    `--model facebook/nllb-200-distilled-600M`, `--min_score -1.5`, `--length_factor 3`, `--min_round_trip 0.4`. A call that was
    killed goes on when it is given again.
    """
    from drdecr.data.teacher.translate import load_translation
    from drdecr.data.teacher.translate import translate as run

    done(run(load_translation(data, context.args), output, license), push, private)


def mine(
    context: typer.Context,
    data: Annotated[Path, typer.Argument(help="YAML: `questions:`, `pool:`, `method:` bm25 or model, `teacher:` ...")],
    output: Annotated[
        Path, typer.Argument(help="Folder of the dataset; left alone if it was made with these settings.")
    ],
    license: LICENSE = None,
    push: PUSH = None,
    private: PRIVATE = False,
) -> None:
    """Find positives by their answers and hard negatives by BM25 or across languages with a model, into n-way rows.

    Other `--key value` pairs override the YAML: `--method model --reader runs/mine/student/model --teacher
    runs/mine/teacher/model --num_candidates 8 --max_share 0.95`; of a
    large pool `--codec residual4 --search.by centroids` scores candidates alone.
    Passages lie on disk, rows go out part by part, and a call that was killed goes on when it is given again.
    """
    from drdecr.data.teacher.mine import load_mining
    from drdecr.data.teacher.mine import mine as run

    done(run(load_mining(data, context.args), output, license), push, private)


def annotate(
    rows: Annotated[str, typer.Argument(help="Folder or Hub name of candidates, as `drdecr mine` writes them.")],
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
    rows_a_shard: Annotated[int, typer.Option(help="Rows a file: what a kill can lose.", min=1)] = 1024,
    license: LICENSE = None,
    push: PUSH = None,
    private: PRIVATE = False,
) -> None:
    """Score every candidate with a teacher, a cross-encoder or a file, into a dataset that recipes learn from.

    A call that was killed goes on when it is given again. On several devices: `accelerate launch -m drdecr.annotate ...`.
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
        rows_a_shard=rows_a_shard,
    )
    done(run(settings, output, license), push, private)


def done(folder: Path, push: str | None, private: bool) -> None:
    """Say where a step's dataset is, and push it if that is wanted; of several processes the first one."""
    from drdecr.data.shards import is_main_process

    if not is_main_process():
        return
    typer.echo(f"dataset: {folder}")
    if push:
        from drdecr.data.hub import push_dataset

        typer.echo(f"pushed: {push}, revision {push_dataset(folder, push, private)}")


def add_commands(app: typer.Typer) -> None:
    """Add the commands to a command line."""
    app.command(context_settings=EXTRA)(translate)
    app.command(context_settings=EXTRA)(mine)
    app.command()(annotate)
