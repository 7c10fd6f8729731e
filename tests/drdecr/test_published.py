"""What is published names no folder of the machine, and holds no secret."""

import pytest
from datasets import Dataset

from drdecr.data.hub import write_dataset
from drdecr.data.prepare.prepare import PrepareRecipe, prepare
from drdecr.data.provenance import redact_command


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("/home/me/set.yaml", "set.yaml"),
        ("--reader=/home/me/model", "--reader=model"),
        ("-o/home/me/out.json", "-oout.json"),
        ("file:///home/me/x", "x"),
        ("hub:/home/me/x", "hub:x"),
        ("[/home/me/a, /home/me/b]", "'[a, b]'"),
        ("https://huggingface.co/me/x", "https://huggingface.co/me/x"),
        ("runs/out", "runs/out"),
        ("me/student", "me/student"),
        ("--hub_token=abc", "'--hub_token=***'"),
        ("--tokens=all", "--tokens=all"),
        ("--output=https://me:word@host/x?token=abc", "'--output=https://***@host/x?token=***'"),
        ("hf_abcdefghijklmnopqrst", "'hf_***'"),
        ("/data/squad/dev.json", "'$DRDECR_DATA/squad/dev.json'"),
    ],
)
def test_a_command_keeps_names_and_loses_folders(word, shown, monkeypatch):
    monkeypatch.setenv("DRDECR_DATA", "/data")
    assert redact_command(["/home/me/bin/drdecr", "data", "mine", word]) == f"drdecr data mine {shown}"


def test_a_command_loses_the_word_behind_an_option_of_a_secret():
    assert redact_command(["drdecr", "push", "--token", "abc", "x"]) == "drdecr push --token '***' x"


def test_no_secret_of_an_entry_reaches_a_prepared_or_an_exported_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DRDECR_DATA", str(tmp_path))
    (tmp_path / "fi.tsv").write_text("sana numero yksi\tword number one\n")
    address = "https://me:password1@host/x?access_token=password2&hf=hf_abcdefghijklmnopqrst"
    entry = {"format": "tsv", "path": str(tmp_path / "fi.tsv"), "languages": ["fi"], "about": {"source": address}}
    prepare(PrepareRecipe([{"name_of_source": "made", **entry}]), tmp_path / "prepared")
    rows = {"parallel": {"train": Dataset.from_list([{"query": "sana"}])}}
    write_dataset(tmp_path / "exported", rows, address, None, f"source: {address}", {"source": address})
    texts = [file.read_text() for name in ("prepared", "exported") for file in (tmp_path / name).glob("*.*")]
    assert len(texts) == 6
    assert all("https://***@host/x?access_token=***" in text for text in texts)
    assert not any(secret in text for text in texts for secret in ("password1", "password2", "hf_abc"))
