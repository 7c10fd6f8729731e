"""Options that several commands share."""

from typing import Annotated

import typer

WhereOption = Annotated[
    list[str] | None, typer.Option("--where", help="key=value that a document's metadata must have; may be repeated.")
]
CalibratedOption = Annotated[
    bool, typer.Option("--calibrated", help="Scores that compare across languages, after `drdecr calibrate`.")
]
TranslateFromOption = Annotated[
    str | None, typer.Option("--translate-from", help="Language of the questions, to be asked in English: fi ...")
]
TranslatorOption = Annotated[
    str | None, typer.Option("--translator", help="Translates them first: apertium, or a seq2seq model.")
]
