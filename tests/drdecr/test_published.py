"""What is published names no folder of the machine."""

import pytest

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
        ("/data/squad/dev.json", "'$DRDECR_DATA/squad/dev.json'"),
    ],
)
def test_a_command_keeps_names_and_loses_folders(word, shown, monkeypatch):
    monkeypatch.setenv("DRDECR_DATA", "/data")
    assert redact_command(["/home/me/bin/drdecr", "data", "mine", word]) == f"drdecr data mine {shown}"
