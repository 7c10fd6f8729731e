"""Scores that compare across the languages of documents: how much better than unrelated text of the same language.

MaxSim of one question is higher, or lower, for all text of some languages: for its own, for those that the encoder knows well.
A cohort is text of each language that answers no question in particular, best the same text in all of them. Each question is
scored against it as it is asked, and a passage's score is told in standard deviations above the mean of its language. The
question's language is not needed; a passage's is metadata. Speaker verification normalises scores in this way (T-norm,
Auckenthaler, Carey and Lloyd-Thomas 2000).
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from tqdm.auto import tqdm

from drdecr.modeling_drdecr import DrDecrModel, maxsim, pad_embeddings

from .protocol import Filter, Hits, PassageIndex, filter_values, value_key
from .stored.manifest import DamagedIndexError, differences, write_whole

LANGUAGE = "language"
"""Key of a passage's payload that names its language."""
QUERIES_AT_ONCE = 64
MIN_DEVIATION = 1e-6


class LanguageCohort:
    """Token embeddings of reference passages by language, which questions are scored against.

    Args:
        embeddings: `{language: tensors (tokens, dim)}`, two passages a language or more; a hundred tell a mean well. Best the
            same texts in every language, or a difference in content is taken for one of language.
        metadata: what is to be remembered, such as the model and the text.

    Raises:
        ValueError: for no language, fewer than two passages of one, a passage without tokens, or other widths.
    """

    def __init__(self, embeddings: Mapping[str, Sequence[Tensor]], metadata: Mapping[str, Any] | None = None) -> None:
        if not embeddings:
            raise ValueError("calibration: expected passages of the collection's languages, got none.")
        for language, passages in embeddings.items():
            if len(passages) < 2:
                raise ValueError(
                    f"calibration: expected two passages or more in {language!r}, got {len(passages)}. A hundred tell a mean "
                    "well."
                )
            if any(len(tokens) == 0 for tokens in passages):
                raise ValueError(f"calibration: a passage in {language!r} has no token that scores. Leave it out.")
        widths = {tokens.shape[1] for passages in embeddings.values() for tokens in passages}
        if len(widths) > 1:
            raise ValueError(
                f"calibration: expected one width of embeddings, got {sorted(widths)}. Encode with one model."
            )
        self.embeddings = {language: list(passages) for language, passages in embeddings.items()}
        self.metadata, self.dim = dict(metadata or {}), widths.pop()
        self._padded = {
            language: pad_embeddings([tokens.float() for tokens in passages])
            for language, passages in self.embeddings.items()
        }

    @property
    def languages(self) -> list[str]:
        """The languages, sorted."""
        return sorted(self.embeddings)

    @torch.no_grad()
    def scales(self, query_embeddings: Sequence[Tensor]) -> dict[str, list[tuple[float, float]]]:
        """Score queries against the cohort.

        Args:
            query_embeddings: one `(tokens, dim)` tensor a query.

        Returns:
            `{language: mean and standard deviation of each query's scores}`.
        """
        scales: dict[str, list[tuple[float, float]]] = {language: [] for language in self.languages}
        for start in range(0, len(query_embeddings), QUERIES_AT_ONCE):
            batch = [tokens.float() for tokens in query_embeddings[start : start + QUERIES_AT_ONCE]]
            queries, mask = pad_embeddings(batch)
            for language, (passages, passage_mask) in self._padded.items():
                scores = maxsim(queries, passages, mask, passage_mask)  # (queries, passages)
                deviations = scores.std(dim=1).clamp(min=MIN_DEVIATION)
                scales[language] += zip(scores.mean(dim=1).tolist(), deviations.tolist(), strict=True)
        return scales

    def save(self, path: Path) -> None:
        """Write the cohort to a safetensors file, in half precision, whole or not at all."""
        tensors, lengths = {}, {}
        for language, passages in self.embeddings.items():
            tensors[language] = torch.cat([tokens.half() for tokens in passages])
            lengths[language] = [len(tokens) for tokens in passages]
        header = {"lengths": json.dumps(lengths), "metadata": json.dumps(self.metadata)}
        header["sha256"] = _digest_of(header, tensors)
        write_whole(path, lambda file: file.write(save(tensors, header)))

    @classmethod
    def load(cls, path: Path) -> "LanguageCohort":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: if there is none.
            DamagedIndexError: if it is cut off, changed, or another file.
        """
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no calibration. Make it: drdecr index calibrate INDEX TEXTS.")
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                tensors = {language: file.get_tensor(language) for language in file.keys()}  # noqa: SIM118  # no mapping
            if header.pop("sha256") != _digest_of(header, tensors):
                raise ValueError("its checksum is another")
            lengths = json.loads(header["lengths"])
            embeddings = {language: list(tensors[language].split(sizes)) for language, sizes in lengths.items()}
            return cls(embeddings, json.loads(header["metadata"]))
        except (SafetensorError, ValueError, KeyError, AttributeError, TypeError, RuntimeError) as error:
            raise DamagedIndexError(
                f"{path}: damaged, or no calibration. Make it again: drdecr index calibrate INDEX TEXTS."
            ) from error


def _digest_of(header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for language in sorted(tensors):
        digest.update(tensors[language].contiguous().numpy().tobytes())
    return digest.hexdigest()


class CalibratedIndex:
    """An index whose scores compare across languages. Each language is searched by itself, and the findings are merged.

    Args:
        index: whose passages name their language. Those in a language without cohort, or without a language, are not found:
            `check_languages` tells.
        cohort: in all of its languages.
        key: of the payload's language.
    """

    def __init__(self, index: PassageIndex, cohort: LanguageCohort, key: str = LANGUAGE) -> None:
        self.index, self.cohort, self.key = index, cohort, key

    def __len__(self) -> int:
        return len(self.index)

    def passage_ids(self) -> list[str]:
        """Return the ids of all passages."""
        return self.index.passage_ids()

    def search(self, query_embeddings: list[Tensor], top_k: int = 10, where: Filter | None = None) -> Hits:
        """Find the passages furthest above their language's cohort; arguments as of an index.

        Returns:
            `Hits` with scores in standard deviations.
        """
        scales = self.cohort.scales(query_embeddings)
        merged: list[list[tuple[float, str]]] = [[] for _ in query_embeddings]
        for language, filters in self._filters(where):
            hits = self.index.search(query_embeddings, top_k=top_k, where=filters)
            for query, (ids, scores) in enumerate(zip(hits.document_ids, hits.scores, strict=True)):
                mean, deviation = scales[language][query]
                merged[query] += [((score - mean) / deviation, name) for name, score in zip(ids, scores, strict=True)]
        best = [sorted(pairs, key=lambda pair: -pair[0])[:top_k] for pairs in merged]
        return Hits([[name for _, name in pairs] for pairs in best], [[score for score, _ in pairs] for pairs in best])

    def _filters(self, where: Filter | None) -> Iterator[tuple[str, Filter]]:
        languages = filter_values(where).get(self.key)
        others = {key: value for key, value in (where or {}).items() if key != self.key}
        for language in self.cohort.languages:
            if languages is None or value_key(language) in languages:
                yield language, {**others, self.key: language}

    def payloads(self, passage_ids: Sequence[str]) -> list[dict[str, Any]]:
        """Return what was added with passages."""
        return self.index.payloads(passage_ids)


def check_languages(payloads: Sequence[Mapping[str, Any]], cohort: LanguageCohort, key: str = LANGUAGE) -> None:
    """Raise `ValueError` if a passage would not be found, for want of a language or of a cohort in it."""
    values = [payload.get(key) for payload in payloads]
    # A list of languages is none of them: the passage would be found once for each.
    odd = [value for value in values if not (isinstance(value, str) and value in cohort.embeddings)]
    if odd:
        raise ValueError(
            f"calibration: expected all passages in {', '.join(cohort.languages)}, got {odd.count(odd[0])} with {key} {odd[0]!r}."
            " Calibrate again with text in that language, or add the documents with their language."
        )


CALIBRATION = "calibration.safetensors"
"""File, in the folder of an index, of the cohort."""
LANGUAGE_KEY = "language_key"
"""What a calibration remembers of the key that names a document's language."""


def calibrate(
    model: DrDecrModel, references: Mapping[str, list[str]], metadata: Mapping[str, Any] | None = None
) -> LanguageCohort:
    """Encode reference passages of each language.

    Args:
        model: that encoded the index.
        references: `{language: texts}`, two of a language or more; a long one is cut off where the model stops to read.
        metadata: what is to be remembered: `model` and `model_digest`, which `check_calibration` compares.
    """
    rows = tqdm(references.items(), desc="calibrating", unit="language", disable=None)
    return LanguageCohort(
        {code: model.encode_documents(texts, show_progress_bar=False) for code, texts in rows}, metadata
    )


def open_calibrated(folder: str | Path, index: PassageIndex, key: str | None = None) -> CalibratedIndex:
    """Read the calibration of an index.

    Args:
        folder: of the index.
        index: the same, opened to search.
        key: of the payload that names the language (default: the one that it was calibrated with).

    Raises:
        FileNotFoundError: if it was not calibrated.
        DamagedIndexError: if its file is damaged.
        ValueError: if a passage has no language, or one that was not calibrated; if the calibration is of another model.
    """
    cohort = LanguageCohort.load(Path(folder) / CALIBRATION)
    key = key or cohort.metadata.get(LANGUAGE_KEY, LANGUAGE)
    stored: Any = index
    check_calibration({**cohort.metadata, "dim": cohort.dim}, {**stored.metadata, "dim": stored.dim}, folder)
    check_languages(stored.payloads(stored.passage_ids()), cohort, key)
    return CalibratedIndex(index, cohort, key)


def check_calibration(calibrated: Mapping[str, Any], encoded: Mapping[str, Any], folder: str | Path) -> None:
    """Raise `ValueError` if reference text was not encoded by the model that encoded an index.

    Args:
        calibrated: what the calibration says of itself: `model`, and perhaps `model_digest` and `dim`.
        encoded: the same of the index. Only what both say is compared.
        folder: of the index, for the message.
    """
    said_by_both = [name for name in ("model", "model_digest", "dim") if name in calibrated and name in encoded]
    if differences(encoded, {name: calibrated[name] for name in said_by_both}):
        raise ValueError(
            f"{folder}: calibrated with {calibrated.get('model')!r}, encoded with {encoded.get('model')!r}, another model or "
            "another state of it. Calibrate with the one that encoded: drdecr index calibrate INDEX TEXTS."
        )
