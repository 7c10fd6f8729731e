"""The candidates that a teacher found, kept in the run's folder for as long as they are those of the same search."""

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset, load_from_disk

from drdecr.data.embeddings.cache import Tokens
from drdecr.data.offline.backbone import prepare_offline_backbone
from drdecr.data.provenance import model_fingerprint
from drdecr.data.teacher.candidates import retrieve_candidates
from drdecr.modeling_drdecr import DrDecrModel
from drdecr.modeling_drdecr.hub_drdecr import hub_errors
from drdecr.retrieval.encoder import OFFLINE

from .recipe import ADAPTERS_OFF, Recipe

logger = logging.getLogger(__name__)

DIGEST = "search.sha256"
"""In the folder of the candidates: what they were found for, in what, by whom."""


def cached_candidates(
    recipe: Recipe,
    rows: Dataset,
    teacher: DrDecrModel,
    passages: Mapping[str, str],
    passage_tokens: Tokens,
    query_tokens: Tokens | None,
) -> Dataset:
    """Find candidates once a run: they are kept in its folder, so that a resumed run reads them.

    Where rows, passages, teacher or settings are others than those that were searched, they are found anew. Of several
    processes the first one searches; the others wait and read.

    Args:
        recipe: of the run.
        rows: questions with `english`.
        teacher: reads the English questions.
        passages: `{document_id: text}` of the pool.
        passage_tokens: the teacher's tokens of them.
        query_tokens: the teacher's tokens of the English questions, if they are known already.

    Returns:
        The rows with their candidates and the teacher's scores.
    """
    settings = recipe.data
    folder = recipe.folder / "candidates"
    state = PartialState()
    with state.main_process_first():  # the others read what the first one wrote
        is_cached = (folder / "dataset_info.json").exists()
        if state.is_main_process or not is_cached:
            digest, file = search_digest(recipe, rows, passages), folder / DIGEST
            if is_cached and not (file.exists() and file.read_text(encoding="utf-8") == digest):
                logger.warning(
                    "%s was found for other rows, passages, settings or by another teacher, and is searched anew.",
                    folder,
                )
                is_cached = False
            if not is_cached:
                logger.info("Finding candidates for %d questions in %d passages.", len(rows), len(passages))
                candidates = retrieve_candidates(
                    rows,
                    teacher,
                    passage_tokens,
                    settings.num_candidates,
                    settings.candidate_depth,
                    ranked_by=settings.candidates_by,
                    query_tokens=query_tokens,
                )
                write_candidates(candidates, folder, digest)
        return load_from_disk(str(folder))


def search_digest(recipe: Recipe, rows: Dataset, passages: Mapping[str, str]) -> str:
    """Return a digest of all that a search for candidates depends on; 75,000 rows and 50,000 passages take two seconds."""
    settings = recipe.data
    digest = hashlib.sha256()

    def add(part: Any) -> None:
        digest.update(json.dumps(part).encode())  # JSON, so that no two lists of texts run into the same bytes

    add([settings.num_candidates, settings.candidate_depth, settings.candidates_by, recipe.teacher_dtype])
    add(_reader_identity(recipe))
    for column in rows.column_names:
        add([column, list(rows[column])])
    add(list(passages.items()))
    return digest.hexdigest()


def _reader_identity(recipe: Recipe) -> str:
    """Return what tells the model that searches apart: the teacher, or the start where that is its own teacher."""
    is_start = recipe.teacher in (None, ADAPTERS_OFF)
    source = recipe.resolve(recipe.model if is_start else str(recipe.teacher))
    if source == OFFLINE:
        source = str(prepare_offline_backbone())
    with hub_errors(source):
        return model_fingerprint(source, recipe.revision if is_start else None)


def write_candidates(candidates: Dataset, folder: Path, digest: str) -> None:
    """Write candidates and their digest whole or not at all."""
    unfinished = folder.with_name(".candidates.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    candidates.save_to_disk(str(unfinished))
    (unfinished / DIGEST).write_text(digest, encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
