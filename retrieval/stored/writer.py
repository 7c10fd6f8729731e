"""Segments to the disk: of passages in memory, or of segments that become one. Whole or not at all."""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from .codecs import encode_block, learn, training_rows
from .manifest import SegmentRecord, file_record, sync_folder, write_whole
from .passage_table import FILE_NAME, to_bytes, write_passages
from .ragged import cut_into_blocks, places_of_tokens
from .segment import Segment

TOKENS_PER_BLOCK = 65_536
"""Tokens in memory at once when segments become one."""


def write_segment(
    folder: Path,
    passage_ids: Sequence[str],
    embeddings: Sequence[Tensor],
    payloads: Sequence[Mapping[str, Any]],
    codec: str,
) -> SegmentRecord:
    """Write a segment of passages in memory.

    Args:
        folder: of the segment, a name that no other writer takes; its parent must exist.
        passage_ids: at least one.
        embeddings: one `(tokens, dim)` tensor each.
        payloads: one mapping each, of what JSON can hold.
        codec: one of `codecs.CODECS`.

    Returns:
        The record for the manifest.
    """
    order = sorted(range(len(passage_ids)), key=lambda row: len(embeddings[row]))
    lengths = np.array([len(embeddings[row]) for row in order], dtype=np.int64)
    cells = ((to_bytes(passage_ids[row]), to_bytes(json.dumps(payloads[row], ensure_ascii=False))) for row in order)
    tokens = torch.cat([embeddings[row] for row in order])
    learned = learn(tokens[training_rows(len(tokens), len(order))], len(tokens), codec, seed=len(order))
    return _write(folder, lengths, cells, [encode_block(tokens, codec, learned)], learned)


def merge_segments(folder: Path, segments: Sequence[Segment], codec: str) -> SegmentRecord:
    """Write the passages of segments, without deleted ones, as one segment; a block of tokens at a time is in memory.

    Args:
        folder: as of `write_segment`.
        segments: opened, with at least one passage among them.
        codec: of the new one.

    Returns:
        The record for the manifest.
    """
    alive = [segment.rows() for segment in segments]
    numbers = np.repeat(np.arange(len(alive)), [len(rows) for rows in alive])
    firsts = torch.cat([segment.offsets[rows] for segment, rows in zip(segments, alive, strict=True)])
    lengths = torch.cat([segment.lengths(rows) for segment, rows in zip(segments, alive, strict=True)]).numpy()
    rows = torch.cat(alive).numpy()
    order = lengths.argsort(kind="stable")
    numbers, rows, firsts, lengths = numbers[order], rows[order], firsts[torch.from_numpy(order)], lengths[order]

    def encoded() -> Iterator[dict[str, np.ndarray]]:
        for block in (slice(*bounds) for bounds in cut_into_blocks(lengths, TOKENS_PER_BLOCK)):
            owners = np.repeat(numbers[block], lengths[block])
            tokens = _gathered(segments, owners, places_of_tokens(firsts[block], lengths[block]))
            yield encode_block(tokens, codec, learned)

    ends = lengths.cumsum()
    drawn = training_rows(int(ends[-1]), len(order)).numpy() if codec.startswith("residual") else np.zeros(0, np.int64)
    passages = np.searchsorted(ends, drawn, side="right")
    places = firsts[torch.from_numpy(passages)] + torch.from_numpy(drawn - (ends - lengths)[passages])
    learned = learn(_gathered(segments, numbers[passages], places), int(ends[-1]), codec, seed=len(order))
    cells = (
        (segments[number].table.cell(row, 0), segments[number].table.cell(row, 1))
        for number, row in zip(numbers.tolist(), rows.tolist(), strict=True)
    )
    return _write(folder, lengths, cells, encoded(), learned)


def _gathered(segments: Sequence[Segment], numbers: np.ndarray, places: Tensor) -> Tensor:
    """Decode tokens that stand at `places` of the segments of these `numbers`, one each: float32 `(tokens, dim)`."""
    tokens = torch.empty(len(places), segments[0].decoded(places[:0]).shape[1])
    for number in np.unique(numbers).tolist():
        of_segment = torch.from_numpy(numbers == number)
        tokens[of_segment] = segments[number].decoded(places[of_segment])
    return tokens


def _write(
    folder: Path,
    lengths: np.ndarray,
    cells: Iterable[tuple[bytes, bytes]],
    blocks: Iterable[Mapping[str, np.ndarray]],
    learned: Mapping[str, np.ndarray],
) -> SegmentRecord:
    """Write a segment's files into a folder beside, and rename it in one step.

    Args:
        folder: as of `write_segment`.
        lengths: int64 `(passages,)`: tokens of each, ascending.
        cells: id and payload of each.
        blocks: arrays with a row a token, block after block.
        learned: arrays that all tokens share.
    """
    tokens = int(lengths.sum())
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    temporary.mkdir()
    try:
        for name, array in {"offsets": np.concatenate([[0], lengths.cumsum()]), **learned}.items():
            write_whole(temporary / f"{name}.npy", partial(np.save, arr=array))
        _write_blocks(temporary, blocks, tokens)
        write_whole(temporary / FILE_NAME, lambda file: write_passages(file, cells))
        files = {path.name: file_record(path) for path in sorted(temporary.iterdir())}
        os.rename(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(folder.parent)
    return SegmentRecord(folder.name, len(lengths), tokens, files)


def _write_blocks(folder: Path, blocks: Iterable[Mapping[str, np.ndarray]], tokens: int) -> None:
    """Write arrays of `tokens` rows as `*.npy`, block by block."""
    with ExitStack() as stack:
        files: dict[str, BinaryIO] = {}
        for block in blocks:
            for name, array in block.items():
                if name not in files:
                    files[name] = stack.enter_context((folder / f"{name}.npy").open("wb"))
                    header = np.lib.format.header_data_from_array_1_0(array) | {"shape": (tokens, *array.shape[1:])}
                    np.lib.format.write_array_header_1_0(files[name], header)
                files[name].write(np.ascontiguousarray(array).data)
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
    sync_folder(folder)
