"""Documents to shards: each document belongs to one by its id; workers make shards at the same time, or one makes all.

Three routes share the job: a loop, actors of Ray, and processes that `accelerate launch -m drdecr.encode` or torchrun started.
"""

import os
from collections import Counter
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from tqdm.auto import tqdm

from drdecr.data.digests import model_digest
from drdecr.data.documents import read_documents
from drdecr.retrieval.manifest import NAME
from drdecr.retrieval.shard_manifest import NAME as SHARDS_NAME
from drdecr.retrieval.shard_manifest import (
    ShardManifest,
    about_shard,
    check_plan,
    plan_shards,
    read_record,
    shard_folder,
)

from .dealing import already_made, dealt_documents, documents_for, tell_made
from .encode import Splitting, about_index, encode_collection, open_or_create
from .encoding_precision import FLOAT16, FLOAT32, encoder_in, sample_of
from .processes import join_processes, num_launched, share_of

POLL_SECONDS = 0.5
"""How often the bar looks at what workers have committed."""


@dataclass(frozen=True)
class EncodingJob:
    """What is encoded, by which model, into how many shards; every worker gets the whole of it.

    Args:
        model: a checkpoint folder or Hub name.
        documents: as of `read_documents`; the process that has the shards made reads all once and deals them (`dealing`).
        folder: of the shards.
        num_shards: how many.
        splitting: how documents are cut.
        batch_size: passages a forward pass (default 32).
        prune: delete documents that are no longer in the source (default: they stay).
        precision: in which they are encoded, one of `encoding_precision.PRECISIONS` (default float32).
        codec: how they are kept, one of `encoding_precision.KEPT_IN` (default float16).
    """

    model: str
    documents: str
    folder: Path
    num_shards: int
    splitting: Splitting
    batch_size: int = 32
    prune: bool = False
    precision: str = FLOAT32
    codec: str = FLOAT16

    def dealt(self) -> AbstractContextManager[None]:
        """Deal the documents, and collect the shards behind the block; as of `dealt_documents`."""
        return dealt_documents(self.documents, self.folder, self.num_shards, self.prune)

    def plan(self, digest: str) -> ShardManifest:
        """Begin the shards of a model with this digest, or go on with them; as of `plan_shards`."""
        about = about_index(self.model, digest, self.splitting, self.precision, self.codec)
        return plan_shards(self.folder, self.num_shards, about)


class ShardEncoder:
    """A worker: it loads the model once and makes shards.

    Args:
        job: what is to be done.
        device: of the model (default: the accelerator, or the processor).
        folder: where relative paths start (default: where the process runs).
    """

    def __init__(self, job: EncodingJob, device: Any = None, folder: str | None = None) -> None:
        self.job, self.device = job, device
        if folder is not None:
            os.chdir(folder)

    @cached_property
    def _reader(self) -> Any:
        from .measuring import load_reader

        reader = load_reader(self.job.model)
        self.job.splitting.room(reader.processor)  # said before anything is written
        return reader if self.device is None else reader.to(self.device)

    @cached_property
    def _encoder(self) -> Any:
        job = self.job
        if job.precision == FLOAT32:
            return self._reader
        sample = sample_of(read_documents(job.documents), job.splitting, self._reader)
        return encoder_in(job.precision, self._reader, sample)[0]

    def model_digest(self) -> str:
        """Return the digest of the model that this worker loaded."""
        return model_digest(self._reader)

    def encode(self, number: int, show_progress_bar: bool | None = None) -> dict[str, int]:
        """Bring one shard to the state of the documents that were dealt to it, and return counts as of `encode_collection`."""
        job, plan = self.job, ShardManifest.read(self.job.folder)
        made = already_made(job.folder, number)
        if made is not None:
            return {"new": 0, "changed": 0, "unchanged": made, "deleted": 0, "passages": 0}
        about = about_shard(plan.about, number, plan.num_shards)
        folder, dim = shard_folder(job.folder, number), self._reader.config.embedding_dim
        # What was collected was read or written by who made it, and is read again by who searches.
        there = bool(plan.shards) and (folder / NAME).is_file()
        collected = there and plan.shards[number] == read_record(job.folder, number)
        with open_or_create(folder, dim, about, job.codec, 1, verify=not collected) as index:
            own = documents_for(job.folder, number)
            counts = encode_collection(
                self._encoder, own, index, job.splitting, job.batch_size, job.prune, show_progress_bar
            )
            tell_made(job.folder, number)
        return counts


def choose_shards(folder: Path, shards: int, workers: int) -> int:
    """Return how many shards a folder has or is to have; 0 for one index without shards.

    Args:
        folder: of the shards, perhaps not there yet.
        shards: what was asked for; 0: as many as there are, or else as workers.
        workers: that will share the work.

    Raises:
        ValueError: for several workers or shards where one index is already.
    """
    if (folder / SHARDS_NAME).is_file():
        return shards or ShardManifest.read(folder).num_shards
    wanted = shards or (workers if workers > 1 else 0)
    if wanted and (folder / NAME).is_file():
        raise ValueError(
            f"{folder}: one index, which one worker writes. Leave --workers and --shards out, choose another folder, or "
            f"spread it: drdecr index {folder} NEW --shards {wanted}."
        )
    return wanted


def encode_shards(job: EncodingJob, workers: int = 1) -> dict[str, int]:
    """Bring all shards to the state of the collection, then collect them: they are searched together from then on.

    A call that was killed goes on in every shard behind its last commit; what is there and the same is left alone. Every
    worker says the digest of the model that it loaded, before anything is written.

    Args:
        job: what is to be done.
        workers: processes that Ray starts (default 1: none). Where a launcher started this process among others, these
            share the work instead.

    Returns:
        Counts over all shards.

    Raises:
        ValueError: for a folder of something else or of another model, or what documents and model are refused for.
    """
    check_plan(job.folder, job.num_shards, asdict(job.splitting))  # as far as can be said before a model is loaded
    if num_launched() > 1:
        return _with_others(job)
    if workers > 1:
        return summed(_by_ray(job, min(workers, job.num_shards)))
    encoder = ShardEncoder(job)
    job.plan(encoder.model_digest())
    with job.dealt():
        return summed([encoder.encode(number) for number in range(job.num_shards)])


def summed(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    """Add up the counts of shards."""
    total: Counter[str] = Counter()
    for own in counts:
        total.update(own)
    return dict(total)


def one_digest(digests: Iterable[str], model: str) -> str:
    """Return the digest that all workers found; `ValueError` if they loaded different models under one name."""
    found = sorted(set(digests))
    if len(found) > 1:
        raise ValueError(
            f"{model}: expected one model, got {len(found)} that differ in weights, tokenizer or settings: workers see another "
            "folder under this name, or it changed meanwhile. Give all of them the same, and the command again."
        )
    return found[0]


def _with_others(job: EncodingJob) -> dict[str, int]:
    """Do this process's share and return the counts of all."""
    state = join_processes()
    encoder = ShardEncoder(job, state.device)
    digests: list[str] = gather_object([encoder.model_digest()])
    with state.main_process_first():
        job.plan(one_digest(digests, job.model))
    with job.dealt() if state.is_main_process else nullcontext():
        state.wait_for_everyone()
        counts = [encoder.encode(number) for number in share_of(job.num_shards)]
        state.wait_for_everyone()
    found: list[dict[str, int]] = gather_object([summed(counts)])  # and nobody returns before all is collected
    return summed(found)


def _by_ray(job: EncodingJob, workers: int) -> list[dict[str, int]]:
    """Let actors make the shards, the next one by whoever is free; the bar counts the passages that they committed."""
    from drdecr.retrieval.ray_shards import result_of, start_ray, start_workers

    ray = start_ray(workers)
    encoders = start_workers(ray, ShardEncoder, workers, job, None, os.getcwd())
    loading = [encoder.model_digest.remote() for encoder in encoders]
    job.plan(one_digest([result_of(ray, reference, "Encoding") for reference in loading], job.model))
    with job.dealt():
        counts, failures = _made_by(ray, encoders, job)
        for encoder in encoders:
            ray.kill(encoder)
        if failures:
            raise failures[0]
    return counts


def _made_by(ray: Any, encoders: list[Any], job: EncodingJob) -> tuple[list[dict[str, int]], list[Exception]]:
    from drdecr.retrieval.ray_shards import result_of

    left = list(range(job.num_shards))
    counts: list[dict[str, int]] = []
    failures: list[Exception] = []
    committed = {number: num_committed(job.folder, number) for number in left}
    running: dict[Any, tuple[Any, int]] = {}
    idle = list(encoders)
    with tqdm(desc=f"{len(encoders)} workers", unit=" passages", initial=sum(committed.values()), disable=None) as bar:
        while running or left:
            while idle and left:
                encoder, number = idle.pop(0), left.pop(0)
                running[encoder.encode.remote(number, False)] = encoder, number
            done, _ = ray.wait(list(running), timeout=POLL_SECONDS)
            committed |= {number: num_committed(job.folder, number) for _, number in running.values()}
            bar.update(sum(committed.values()) - bar.n)
            for reference in done:
                idle.append(running.pop(reference)[0])
                try:
                    counts.append(result_of(ray, reference, "Encoding"))
                except Exception as error:  # noqa: BLE001  # raised when the others have done their shards
                    failures.append(error)
                    left = []
    return counts, failures


def num_committed(folder: Path, number: int) -> int:
    """Return how many passages a shard holds by now, deleted ones too."""
    made = (shard_folder(folder, number) / NAME).is_file()
    return read_record(folder, number).passages if made else 0
