"""Text of others never steers the terminal, and what cannot be shown costs no result."""

import io
import logging
import socket
import sys

import pytest
from rich.table import Table

from drdecr.cli.errors import in_one_line
from drdecr.cli.terminal import PrintableFormatter, console, echo, printable

STEERING = "\x1b]52;c;aGk=\x07 \x1b[2J \x9b1A \r \u202e \x7f"


def assert_harmless(text):
    assert not {character for character in text if ord(character) < 32 or ord(character) in (0x7F, 0x9B, 0x202E)} - {
        *"\n"
    }


def test_no_way_to_the_terminal_lets_control_sequences_through(capsys):
    assert_harmless(printable(STEERING))
    echo(f"id {STEERING}")
    table = Table(title=STEERING)
    table.add_row(STEERING, "灯台 café कि\u200d")
    console().print(table)
    console(stderr=True).print(in_one_line(ValueError(STEERING)), soft_wrap=True)
    out, errors = capsys.readouterr()
    assert_harmless(out)
    assert_harmless(errors)
    assert "␛[2J" in out
    assert "灯台 café कि" in out
    assert_harmless(PrintableFormatter("%(message)s").format(logging.LogRecord("", 20, "", 1, STEERING, (), None)))


def test_a_result_is_printed_where_the_terminal_lacks_its_letters(call, monkeypatch, tmp_path):
    output = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", output)
    monkeypatch.setattr("drdecr.cli.train.describe_keys", lambda stage: "灯台 café")
    monkeypatch.setattr(sys, "argv", ["drdecr", "keys"])
    from drdecr.cli.main import main

    with pytest.raises(SystemExit) as stopped:
        main()
    output.flush()
    assert (stopped.value.code, output.buffer.getvalue().decode("cp1252")) == (0, "?? café\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["index", "build", "tiny", "", "out"], "Argument 4 is empty"),
        (["search", "index", "caf\udce9 majakka"], r"Argument 3: expected text in UTF-8, got b'caf\\xe9 majakka'"),
    ],
)
def test_a_word_that_is_no_text_is_refused_before_anything_is_done(words, message, call):
    code, _, errors = call(*words)
    assert code == 1
    assert errors.startswith(f"error: {message}".replace("\\\\", "\\"))
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize("command", ["serve", "page"])
def test_an_address_is_checked_before_a_model_is_loaded(command, call, monkeypatch, tmp_path):
    monkeypatch.setattr("drdecr.retrieval.build.check_index", lambda source: None)
    monkeypatch.setattr("drdecr.cli.search.open_retriever", None)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for words in (["--host", "256.1.1.1"], ["--port", port]):
            code, _, errors = call(command, tmp_path, *words)
            assert code == 1
            assert "cannot be listened at" in errors
            assert len(errors.strip().splitlines()) == 1
