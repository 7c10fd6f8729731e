"""Models: `drdecr model convert | offline`, and `drdecr push`."""

from pathlib import Path
from typing import Annotated

import typer

from .options import new_group
from .terminal import echo

app = new_group("Convert checkpoints from and to other libraries; unpack the offline encoder.")


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="A .dnn file or a checkpoint folder; its format is found out.")],
    destination: Annotated[Path, typer.Argument(help="Folder to write.")],
    to: Annotated[str, typer.Option(help="drdecr, stanford, pylate, sentence-transformers or encoder.")] = "drdecr",
    base: Annotated[str | None, typer.Option(help="Encoder of a .dnn: a folder or Hub name.")] = None,
    embedding_dim: Annotated[int, typer.Option(help="Width of a bare encoder's new projection.", min=1)] = 128,
    overwrite: Annotated[bool, typer.Option(help="Replace the destination.")] = False,
) -> None:
    """Convert a checkpoint from PrimeQA, Stanford ColBERT, PyLate, sentence-transformers or a bare encoder, or back.

    Nothing of the source is executed: a pickle that holds more than tensors and plain values is refused.

    Example: `drdecr model convert colbert.dnn runs/converted --base xlm-roberta-base`. More: docs/loaders.md.
    """
    from drdecr.hub.convert import convert as run

    for note in run(source, destination, to, base, embedding_dim, overwrite):
        echo(f"note: {note}")
    echo(f"{to}: {destination}")


@app.command()
def offline() -> None:
    """Unpack the offline encoder (multilingual-e5-small) and print its folder.

    Example: `drdecr model offline`. More: docs/runs.md.
    """
    from drdecr.data.offline.backbone import prepare_offline_backbone

    echo(prepare_offline_backbone())


def push(
    folder: Annotated[Path, typer.Argument(help="A finished run, a model's folder, an adapter's or a dataset's.")],
    repository: Annotated[str, typer.Argument(help="Its name on the Hub: user/name.")],
    private: Annotated[bool, typer.Option("--private", help="Make the repository private if it is new.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch to push to, of a model; default: main.")] = None,
    tag: Annotated[str | None, typer.Option(help="Name for the commit of a model, such as v1.0.")] = None,
) -> None:
    """Push a model, an adapter or a dataset to the Hub, with its card, in one commit.

    The files in the folder tell what it is. After a failure, run it again: files that arrived are not sent again.

    Example: `drdecr push runs/demo/relevance alice/student --private`. More: docs/hub.md.
    """
    from drdecr.data.hub import is_dataset, push_dataset
    from drdecr.hub.push import push_folder
    from drdecr.runs.model_card import write_missing_card

    if is_dataset(folder):
        if revision or tag:
            raise ValueError("--revision and --tag belong to a model, and this folder holds a dataset. Leave them out.")
        echo(f"pushed: {repository}, revision {push_dataset(folder, repository, private)}")
        return
    write_missing_card(folder)
    echo(push_folder(folder, repository, private, revision, tag))
