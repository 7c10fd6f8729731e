"""What must not be trained on: repeated rows, and texts that stand in a test or development set."""

import logging
import unicodedata
from collections.abc import Iterable

from datasets import Dataset

logger = logging.getLogger(__name__)


def normalised(text: str) -> str:
    """Return a text's letters, their marks and digits, case folded: what is compared to find leaks and repetitions.

    Marks count: they are the vowels of Bengali and Telugu. Formatting characters, such as joiners, do not.

    >>> normalised("Who's  there?") == normalised("who s there")
    True
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.translate(_COMPARED).split())


class _Compared(dict[int, str | None]):
    """What each character counts as: itself, a space or nothing; filled as characters come."""

    def __missing__(self, code: int) -> str | None:
        kind = unicodedata.category(chr(code))
        self[code] = found = chr(code) if kind[0] in "LMN" else None if kind == "Cf" else " "
        return found


_COMPARED = _Compared()


def drop_repeated(dataset: Dataset, name: str) -> Dataset:
    """Keep the first of rows with the same question and English text; say how many went."""
    seen: set[tuple[str, str]] = set()
    keep = []
    for index, pair in enumerate(zip(dataset["query"][:], dataset["english"][:], strict=True)):
        key = (normalised(pair[0]), normalised(pair[1]))
        if key not in seen:
            seen.add(key)
            keep.append(index)
    return _kept(dataset, keep, name, "repeated rows")


def drop_leaks(dataset: Dataset, held_out: Iterable[str], name: str) -> Dataset:
    """Drop rows whose question or English text stands, normalised, among held-out texts; say how many went.

    Args:
        dataset: rows with `query` and perhaps `english`.
        held_out: questions of every set that is measured on.
        name: of the training set, for the log.
    """
    forbidden = {normalised(text) for text in held_out}
    columns = [dataset[column][:] for column in ("query", "english") if column in dataset.column_names]
    leaks = {
        index
        for column in columns
        for index, text in enumerate(column)
        if text is not None and normalised(text) in forbidden
    }
    return _kept(dataset, [i for i in range(len(dataset)) if i not in leaks], name, "rows that stand in a held-out set")


def _kept(dataset: Dataset, keep: list[int], name: str, reason: str) -> Dataset:
    dropped = len(dataset) - len(keep)
    if dropped:
        logger.warning("%s: dropped %d of %d rows: %s.", name, dropped, len(dataset), reason)
        return dataset.select(keep)
    return dataset
