"""Batches from several sets in one run, deterministic under a seed and in any number of processes."""

from collections.abc import Mapping, Sequence, Sized
from typing import Any

import numpy as np
from datasets import Dataset as Rows
from torch.utils.data import Dataset

from .languages import normalise_text

BATCHES_SORTED = 8
"""Batches among which rows are sorted by length: enough to save most padding, few enough to stay mixed."""


class MixedSet(Dataset):
    """Rows of several sets, laid out so that each batch comes from one set.

    The whole order is drawn once from the seed: which set each batch comes from (with probability proportional to its
    weight), and which of its rows (each set is shuffled and used up before it starts again). A trainer reads it front
    to back, so a run is the same after a resume, and two processes take alternating batches of the same order. Each epoch
    has an order of its own (`set_epoch`). Within
    every `BATCHES_SORTED` batches of a set, rows of like length stand together, so that little of a batch is padding.

    Args:
        sets: the sets by name; a row is a dictionary.
        weights: how often each set is drawn; default: in proportion to its size.
        batch_size: rows of one batch on one device.
        num_batches: batches to lay out: steps x accumulation x processes.
        seed: of the order.
        lengths: for each set, a length of each of its rows (characters will do); default: rows are not sorted.
        languages: for each set, the language of each of its rows; needed for a temperature other than 1.
        sources: for some sets, the source of each of their rows; needed for `source_weights`, with `languages`.
        source_weights: how often each source of such a set is drawn, by its name; default: by size.
        language_temperature: T: a language with n rows is drawn with probability proportional to n^(1/T). 1 (default) draws by
            size, infinity each language as often. Each language's rows are then used up before they start again.

    Raises:
        ValueError: for an empty set, a batch without rows, or weights that are not positive or not those of all sets or
            sources.
    """

    is_ordered = True

    def __init__(
        self,
        sets: Mapping[str, Any],
        batch_size: int,
        num_batches: int,
        weights: Mapping[str, float] | None = None,
        seed: int = 12345,
        lengths: Mapping[str, Sequence[int]] | None = None,
        languages: Mapping[str, Sequence[str]] | None = None,
        language_temperature: float = 1.0,
        sources: Mapping[str, Sequence[str]] | None = None,
        source_weights: Mapping[str, float] | None = None,
    ) -> None:
        _check(sets, weights, batch_size)
        self.sets = dict(sets)
        self._names = list(self.sets)
        shares = np.array([float(weights[name]) if weights else len(self.sets[name]) for name in self._names])
        self._shares = shares / shares.sum()
        self._batch_size, self._num_batches, self._seed = batch_size, num_batches, seed
        self._lengths, self._languages, self._temperature = lengths, languages, language_temperature
        self._sources, self._source_weights = sources or {}, source_weights
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Lay out the rows of an epoch; the Trainer calls it before each.

        Args:
            epoch: from 0. Of the same one the order is always the same.
        """
        generator = np.random.default_rng([self._seed, epoch] if epoch else self._seed)
        drawn = generator.choice(len(self._names), size=self._num_batches, p=self._shares)
        self._set_of_row = np.repeat(drawn, self._batch_size)
        self._row = np.empty(len(self._set_of_row), dtype=np.int64)
        for index, name in enumerate(self._names):
            places = np.flatnonzero(self._set_of_row == index)
            self._row[places] = self._order(name, len(places), generator)

    def _order(self, name: str, needed: int, generator: np.random.Generator) -> np.ndarray:
        """Return the numbers of the rows of one set, in the order in which they are read."""
        sources = self._sources.get(name)
        if self._languages is None or (self._temperature == 1 and sources is None):
            order = _passes(len(self.sets[name]), needed, generator)
        else:
            weights = None if sources is None else self._source_weights
            groups, shares = _groups(self._languages[name], self._temperature, sources, weights)
            order = _by_group(groups, shares, needed, generator)
        if self._lengths is None:
            return order
        return _sorted_within_windows(order, np.asarray(self._lengths[name]), self._batch_size, generator)

    def __len__(self) -> int:
        return len(self._row)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.sets[self._names[self._set_of_row[index]]][int(self._row[index])]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return the rows of a batch; of a set on disk they are read at once, which is five times as fast as one by one."""
        rows: dict[int, dict[str, Any]] = {}
        for number, name in enumerate(self._names):
            places = [index for index in indices if self._set_of_row[index] == number]
            numbers, read = self._row[places].tolist(), getattr(self.sets[name], "__getitems__", None)
            found_rows = read(numbers) if read and numbers else [self.sets[name][row] for row in numbers]
            rows.update(zip(places, found_rows, strict=True))
        return [rows[index] for index in indices]

    def batches_of(self, name: str, batch_size: int) -> int:
        """Count the batches that come from a set."""
        return int((self._set_of_row == self._names.index(name)).sum()) // batch_size


def _passes(size: int, needed: int, generator: np.random.Generator) -> np.ndarray:
    """Return `needed` row numbers: whole shuffled passes over `size` rows, the last one cut."""
    passes = -(-needed // size)
    order = np.concatenate([generator.permutation(size) for _ in range(passes)]) if passes else np.empty(0, np.int64)
    return order[:needed]


def language_shares(sizes: Sequence[int], temperature: float) -> np.ndarray:
    """Return with which probability each language is drawn: proportional to its rows to the power of 1 / temperature.

    >>> language_shares([8, 1], 3).round(3).tolist()
    [0.667, 0.333]

    Raises:
        ValueError: for a temperature below 1, which would make large languages larger.
    """
    if not temperature >= 1:
        raise ValueError(
            f"language_temperature: expected a number from 1 up, got {temperature}. 1 draws languages by their size."
        )
    shares = np.asarray(sizes, dtype=float) ** (1 / temperature)
    return shares / shares.sum()


def _groups(
    languages: Sequence[str],
    temperature: float,
    sources: Sequence[str] | None,
    source_weights: Mapping[str, float] | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the group of each row, a language of a source, and with which probability each group is drawn."""
    codes, language_of_row = np.unique(np.asarray(languages), return_inverse=True)
    names, source_of_row = np.unique(np.asarray(sources or [""] * len(languages)), return_inverse=True)
    if source_weights is not None:
        _check_weights("source_weights", names.tolist(), source_weights)
    groups = source_of_row * len(codes) + language_of_row
    sizes = np.bincount(groups, minlength=len(names) * len(codes)).reshape(len(names), len(codes))
    weights = sizes.sum(1) if source_weights is None else np.array([source_weights[name] for name in names.tolist()])
    shares = np.zeros(sizes.shape)
    for source, counts in enumerate(sizes):
        shares[source, counts > 0] = (
            language_shares(counts[counts > 0].tolist(), temperature) * weights[source] / weights.sum()
        )
    return groups, shares.ravel()


def _by_group(groups: np.ndarray, shares: np.ndarray, needed: int, generator: np.random.Generator) -> np.ndarray:
    """Return `needed` row numbers, each of a group drawn by its share; of a group, whole shuffled passes."""
    drawn = generator.choice(len(shares), size=needed, p=shares)
    order = np.empty(needed, dtype=np.int64)
    for group in np.flatnonzero(shares):
        places, rows = np.flatnonzero(drawn == group), np.flatnonzero(groups == group)
        order[places] = rows[_passes(len(rows), len(places), generator)]
    return order


def _sorted_within_windows(
    order: np.ndarray, lengths: np.ndarray, batch_size: int, generator: np.random.Generator
) -> np.ndarray:
    """Sort each window of batches by length, and shuffle its batches; `order` holds whole batches."""
    window = BATCHES_SORTED * batch_size
    for start in range(0, len(order), window):
        rows = order[start : start + window]
        batches = rows[np.argsort(lengths[rows], kind="stable")].reshape(-1, batch_size)
        order[start : start + window] = generator.permutation(batches).ravel()
    return order


def _check(sets: Mapping[str, Sized], weights: Mapping[str, float] | None, batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, got {batch_size}. Use that of one device.")
    empty = [name for name, rows in sets.items() if len(rows) == 0]
    if not sets or empty:
        raise ValueError(f"A mixture needs sets with rows, got {'none' if not sets else f'no rows in {empty[0]!r}'}.")
    if weights is not None:
        _check_weights("Mixture weights", list(sets), weights)


def _check_weights(what: str, names: Sequence[str], weights: Mapping[str, float]) -> None:
    if set(weights) != set(names) or any(not weight > 0 for weight in weights.values()):
        raise ValueError(
            f"{what}: expected a positive number for each of {', '.join(names)}, got {dict(weights)}. Leave one out of the "
            "data instead of giving it 0."
        )


def split_dev(sets: Mapping[str, Rows], num_texts: int, seed: int) -> dict[str, tuple[Rows, Rows]]:
    """Cut rows off for evaluation by their English text: a text is of dev in every set and translation, or in none.

    Args:
        sets: rows with `english`, by name.
        num_texts: how many texts a set gives at most; never more than a fifth of its own.
        seed: of the choice.

    Returns:
        Training and dev rows of each set.
    """
    if num_texts == 0:  # a large folder is not read through for nothing
        return {name: (rows, rows.select([])) for name, rows in sets.items()}
    texts = {
        name: [english or query for english, query in zip(english_of(rows), rows["query"][:], strict=True)]
        for name, rows in sets.items()
    }
    keys = {name: [normalise_text(text) for text in texts_of_set] for name, texts_of_set in texts.items()}
    room = {name: min(num_texts, len(set(own_keys)) // 5) for name, own_keys in keys.items()}
    homes: dict[str, list[str]] = {}
    for name, own_keys in keys.items():
        for key in set(own_keys):
            homes.setdefault(key, []).append(name)
    dev_keys: set[str] = set()
    different = sorted({text for texts_of_set in texts.values() for text in texts_of_set})
    for text in np.random.default_rng(seed).permutation(np.array(different, dtype=object)).tolist():
        key = normalise_text(text)
        if key not in dev_keys and all(room[name] for name in homes[key]):
            dev_keys.add(key)
            for name in homes[key]:
                room[name] -= 1
    parts = {}
    for name, rows in sets.items():
        is_dev = np.array([key in dev_keys for key in keys[name]], dtype=bool)
        parts[name] = (rows.select(np.flatnonzero(~is_dev)), rows.select(np.flatnonzero(is_dev)))
    return parts


def english_of(rows: Rows) -> list[str | None]:
    """Return the English text of each row; None where it has none."""
    return rows["english"][:] if "english" in rows.column_names else [None] * len(rows)
