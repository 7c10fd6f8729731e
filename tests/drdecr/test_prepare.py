"""`drdecr data prepare`: killed ten times it ends with the same bytes, and counts what it drops."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import load_dataset
from huggingface_hub import DatasetCard
from typer.testing import CliRunner

from drdecr.cli.main import app
from drdecr.data.prepare import catalog as catalogue
from drdecr.data.prepare import preparation, prepared_shards
from drdecr.data.prepare import prepare as prepare_module
from drdecr.data.prepare.cleaning import CleaningSettings
from drdecr.data.prepare.prepare import PrepareRecipe, prepare
from drdecr.data.prepare.prepared_shards import PROVENANCE, read_provenance, verify
from drdecr.data.shards import hold
from drdecr.data.sources import read_parallel, read_questions
from drdecr.runs.config import load_settings
from drdecr.runs.training_data import texts_of

KILLS = 10


@pytest.fixture(autouse=True)
def no_real_data(monkeypatch, tmp_path):
    monkeypatch.setenv("DRDECR_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()


def pairs(path: Path, count: int, word: str = "sana") -> str:
    lines = (f"{word} numero {n} on kaunis\tthe word number {n} is {word} and fine\n" for n in range(count))
    path.write_text("".join(lines), encoding="utf-8")
    return str(path)


@pytest.fixture
def recipe(tmp_path) -> PrepareRecipe:
    """Two languages, repeated rows, questions with passages; 300 rows in parts of 20."""
    pairs(tmp_path / "fi.tsv", 120)
    pairs(tmp_path / "et.tsv", 100, "sõna")
    with (tmp_path / "fi.tsv").open("a") as stream:
        stream.write("SANA numero 3 on kaunis!\tThe word number 3 is sana, and fine.\n" * 5)
    items = [
        {"question_text": f"who built house {n}", "title_text": "A_b", "paragraph_text": f"House {n}."}
        for n in range(40)
    ]
    (tmp_path / "qed.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    sources = [
        {
            "name_of_source": "words",
            "format": "tsv",
            "path": str(tmp_path / "{language}.tsv"),
            "languages": ["fi", "et"],
        },
        {"name": "houses", "format": "qed", "path": str(tmp_path / "qed.jsonl"), "share": 0.5},
    ]
    return PrepareRecipe(sources, rows_per_part=20)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def killed(recipe: PrepareRecipe, folder: Path, at: int) -> int:
    """Prepare in a process that kills itself, as `kill -9` does, at its n-th event; return its exit code."""
    process = multiprocessing.get_context("fork").Process(target=_killed, args=(recipe, folder, at))
    process.start()
    process.join(120)
    return process.exitcode


def _killed(recipe: PrepareRecipe, folder: Path, at: int) -> None:
    events = 0

    def tick(*_: Any) -> None:
        nonlocal events
        events += 1
        if events == at:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            tick()
            found = function(*args, **kwargs)
            tick()
            return found

        return called

    def half_written(table: Any, file: Path, **kwargs: Any) -> None:
        Path(file).write_bytes(b"PAR1 half of it")
        tick()
        write(table, file, **kwargs)

    def ticking(entry: Any) -> Any:
        for item in stream(entry):
            tick()
            yield item

    write, stream = prepared_shards.pq.write_table, preparation.open_stream
    prepared_shards.pq.write_table = half_written
    preparation.open_stream = ticking
    os.replace, preparation.np.save = around(os.replace), around(preparation.np.save)
    prepare_module.shutil.rmtree = around(prepare_module.shutil.rmtree)
    prepare(recipe, folder)
    Path(f"{folder}.events").write_text(str(events))


def test_ten_kills_at_random_points_end_with_the_same_bytes(recipe, tmp_path):
    assert killed(recipe, tmp_path / "whole", at=0) == 0
    expected = contents(tmp_path / "whole")
    assert sum(name.endswith(".parquet") for name in expected) > 12
    points = random.Random(3)
    for _ in range(KILLS):
        assert killed(recipe, tmp_path / "often", at=points.randint(1, 45)) == -signal.SIGKILL
        assert not (tmp_path / "often").exists()
    prepare(recipe, tmp_path / "often")
    assert contents(tmp_path / "often") == expected
    # And in the last steps, where the folder gets its card and its name.
    events = int((tmp_path / "whole.events").read_text())
    for back in (0, 1, 2, 3, 5):
        name = f"late{back}"
        assert killed(recipe, tmp_path / name, at=events - back) == -signal.SIGKILL
        prepare(recipe, tmp_path / name)
        assert contents(tmp_path / name) == expected
    assert not list(tmp_path.glob(".*"))


@pytest.mark.processes
def test_a_second_call_is_kept_out_of_one_at_work(recipe, tmp_path):
    journal = tmp_path / ".set.journal"
    journal.mkdir()
    lock = hold(journal)
    with pytest.raises(ValueError, match="another call is at work there"):
        prepare(recipe, tmp_path / "set")
    assert journal.exists()
    assert not (tmp_path / ".set.unfinished").exists()
    lock.release()
    assert (prepare(recipe, tmp_path / "set") / "provenance.json").exists()


def test_two_processes_write_the_bytes_of_one(recipe, tmp_path):
    prepare(recipe, tmp_path / "one")
    prepare(recipe, tmp_path / "two", num_processes=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_shard_that_was_damaged_while_the_work_lay_still_is_made_again(recipe, tmp_path, caplog):
    prepare(recipe, tmp_path / "whole")
    assert killed(recipe, tmp_path / "set", at=100) == -signal.SIGKILL
    shard = sorted((tmp_path / ".set.unfinished").rglob("*.parquet"))[0]
    shard.write_bytes(shard.read_bytes()[:-1])
    prepare(recipe, tmp_path / "set")
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")
    (warning,) = [record.getMessage() for record in caplog.records if "made again" in record.getMessage()]
    assert f"{shard.relative_to(tmp_path / '.set.unfinished').as_posix()}: expected" in warning


def test_a_cut_or_changed_shard_is_named(recipe, tmp_path):
    folder = prepare(recipe, tmp_path / "set")
    shards = sorted(folder.rglob("*.parquet"))
    assert verify(folder) == len(shards)
    cut, flipped, gone = shards[0], shards[1], shards[2]
    cut.write_bytes(cut.read_bytes()[:-1])
    damaged = bytearray(flipped.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    flipped.write_bytes(bytes(damaged))
    gone.rename(folder / "other.parquet")
    with pytest.raises(ValueError, match="got 4 wrong") as error:
        verify(folder)
    names = [path.relative_to(folder).as_posix() for path in (cut, flipped, gone)]
    for words in (
        f"{names[0]}: expected",
        f"{names[1]}: its bytes are not",
        f"{names[2]}: missing",
        "other.parquet: no shard",
    ):
        assert words in str(error.value)
    result = CliRunner().invoke(app, ["data", "prepare", "--verify", str(folder)])
    assert result.exit_code == 1
    assert names[1] in str(result.exception)


def test_the_counts_add_up_and_every_row_says_where_it_comes_from(recipe, tmp_path):
    folder = prepare(recipe, tmp_path / "set")
    words, houses = read_provenance(folder)["sources"]
    assert words["read"] == {"parallel": 225}
    assert words["dropped"] == {"repeated": 5}
    assert words["kept"] == {"parallel et": 100, "parallel fi": 120}
    assert houses["read"] == {"passages": 40, "questions": 40}
    assert houses["dropped"]["not_sampled"] + houses["kept"]["questions en"] == 40
    assert 10 < houses["kept"]["questions en"] < 30  # half of 40, drawn: 5 % would be outside 14 to 26
    assert [file["file"] for file in words["files"]] == ["fi.tsv", "et.tsv"]
    rows = load_dataset(str(folder), "parallel", split="train", cache_dir=str(tmp_path / "cache"))
    lines = (tmp_path / "fi.tsv").read_text().splitlines() + (tmp_path / "et.tsv").read_text().splitlines()
    for row in rows:
        assert lines[row["row"] - 1] == f"{row['query']}\t{row['english']}"
    assert read_parallel([{"format": "prepared", "folder": str(folder), "languages": ["et"]}]).num_rows == 100
    found = read_questions({"format": "prepared_questions", "folder": str(folder)})
    assert len(found.questions) == houses["kept"]["questions en"]
    assert all(found.passages[ids[0]].startswith("A b. House") for ids in found.questions["document_ids"])


def test_each_check_has_a_counter_and_test_sets_are_held_out(tmp_path):
    dev = {"id": "1", "question": "متى بني الجسر القديم في المدينة الكبيرة؟", "answers": ["1900"], "lang": " ar"}
    (tmp_path / "data" / "xor-tydi").mkdir()
    (tmp_path / "data/xor-tydi/xor_dev_retrieve_eng_span_v1_1.jsonl").write_text(json.dumps(dev) + "\n")
    lines = [
        ("متى بني الجسر القديم في المدينة الكبيرة", "When was the old bridge built?"),  # held out, but for its sign
        ("من فضلك: متى بني الجسر القديم في المدينة الكبيرة", "Please: when was it built?"),  # nearly
        ("أين النهر؟", "Where is the river?"),
        ("أين النهر", "where is the RIVER"),  # repeated
        ("", "Nothing"),
        ("Where is the sea?", "Where is the sea?"),
        ("Where does the sea begin?", "Where is the sea?"),
        ("أين \x07البحر", "Where is a bell?"),
        ("أين", "Where is the sea that is so very much longer than the other text?"),
        ("1900", "1900"),
    ]
    (tmp_path / "ar.tsv").write_text("".join(f"{query}\t{english}\n" for query, english in lines))
    sources = [{"name_of_source": "x", "format": "tsv", "path": str(tmp_path / "ar.tsv"), "languages": ["ar"]}]
    folder = prepare(PrepareRecipe(sources), tmp_path / "set")
    dropped = read_provenance(folder)["sources"][0]["dropped"]
    reasons = (
        "held_out",
        "overlap",
        "repeated",
        "blank",
        "untranslated",
        "script",
        "control_characters",
        "length_ratio",
    )
    assert dropped == dict.fromkeys((*reasons, "no_letters"), 1)
    held_out = {found["name"]: found["texts"] for found in read_provenance(folder)["held_out"]}
    assert held_out["xor-tydi-dev"] == 1
    assert held_out["xquad"] == 0  # not here
    assert "| xor-tydi-dev | 1 |" in (folder / "README.md").read_text()


def test_passages_that_answer_held_out_questions_stay_and_are_counted(tmp_path, monkeypatch):
    monkeypatch.delenv("DRDECR_DATA", raising=False)
    long = "the lighthouse on the island was built of red granite by three brothers before the long war"
    entries = {}
    for name, texts in (("mine", [long, f"It is said that {long}", "a mill grinds"]), ("test", [f"{long}!", "other"])):
        rows = [
            {"query_id": f"{n}", "query": f"kuka {name} {n} teki sen", "language": "fi", "document_ids": [f"{n}"]}
            for n in range(len(texts))
        ]
        passages = [{"document_id": f"{n}", "text": text} for n, text in enumerate(texts)]
        paths = {}
        for kind, lines in (("questions", rows), ("passages", passages)):
            (tmp_path / f"{name}-{kind}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            paths[kind] = str(tmp_path / f"{name}-{kind}.jsonl")
        entries[name] = {"format": "jsonl", "name": name, **paths}
    recipe = PrepareRecipe([{"name_of_source": "mine", **entries["mine"]}], held_out=[entries["test"]])
    folder = prepare(recipe, tmp_path / "set")
    provenance = read_provenance(folder)
    assert provenance["sources"][0]["leaks"] == {"held_out": 1, "overlap": 1}
    assert provenance["sources"][0]["kept"] == {"passages": 3, "questions fi": 3}
    assert provenance["held_out"][-1]["passages"] == 2
    assert "| mine | 1 | 1 |" in (folder / "README.md").read_text()
    assert subprocess.run(["sha256sum", "--status", "-c", "SHA256SUMS"], cwd=folder).returncode == 0


def test_a_wrong_row_is_named_nothing_of_it_is_left_and_the_same_call_goes_on_when_it_is_mended(
    recipe, tmp_path, monkeypatch
):
    good = (tmp_path / "et.tsv").read_text()
    (tmp_path / "et.tsv").write_text(good + "no tab\n")
    before = set(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"et.tsv, line 101: expected two fields"):
        prepare(recipe, tmp_path / "set")
    assert set(tmp_path.iterdir()) == before
    # A whole source before it is kept for the next call, and only that one; the next call goes on when the line is mended.
    recipe.sources.reverse()
    with pytest.raises(ValueError, match=r"et\.tsv, line 101"):
        prepare(recipe, tmp_path / "set")
    left = {
        path.relative_to(tmp_path / ".set.unfinished").parts[1]
        for path in (tmp_path / ".set.unfinished").rglob("*.parquet")
    }
    assert left == {"houses"}
    (tmp_path / "et.tsv").write_text(good)
    read = []
    stream = preparation.open_stream
    monkeypatch.setattr(preparation, "open_stream", lambda entry: read.append(entry["format"]) or stream(entry))
    prepare(recipe, tmp_path / "set")
    assert read == ["tsv"]
    assert contents(prepare(recipe, tmp_path / "at-once")) == contents(tmp_path / "set")
    assert not list(tmp_path.glob(".*"))


def test_a_file_without_a_row_is_named(tmp_path):
    (tmp_path / "fi.tsv").write_text("")
    source = {"name_of_source": "words", "format": "tsv", "path": str(tmp_path / "fi.tsv"), "languages": ["fi"]}
    with pytest.raises(ValueError, match=rf"words \({tmp_path}/fi\.tsv\): expected rows that stay, got none of 0"):
        prepare(PrepareRecipe([source]), tmp_path / "set")


def test_what_a_kill_left_is_given_up_for_no_other_settings_and_no_other_sources(recipe, tmp_path):
    assert killed(recipe, tmp_path / "set", at=380) == -signal.SIGKILL
    journal = tmp_path / ".set.journal"
    done = set(journal.glob("*/*.json"))
    assert done
    first, second = recipe.sources
    others = [first, {**second, "name_of_source": "mills"}]
    for name, other in (("cleaning", {"min_script_share": 0.0}), ("sources", [second, first]), ("sources", others)):
        with pytest.raises(ValueError, match=r"\.set\.journal was begun with other settings, sources or held-out sets"):
            prepare(replace(recipe, **{name: other}), tmp_path / "set")
        assert set(journal.glob("*/*.json")) == done


def test_a_source_behind_those_that_are_done_or_words_about_them_cost_no_row(recipe, tmp_path, caplog):
    one = replace(recipe, sources=recipe.sources[:1])
    assert killed(one, tmp_path / "set", at=200) == -signal.SIGKILL
    assert list((tmp_path / ".set.journal").glob("*/*.json"))
    more = replace(
        recipe, license="cc0-1.0", sources=[{**recipe.sources[0], "about": {"note": "Ours."}}, recipe.sources[1]]
    )
    prepare(more, tmp_path / "set")
    assert "Made again" not in caplog.text
    assert contents(prepare(more, tmp_path / "at-once")) == contents(tmp_path / "set")


def test_a_source_that_changes_while_the_work_lies_still_is_made_again_with_those_after_it(recipe, tmp_path, caplog):
    assert killed(recipe, tmp_path / "set", at=380) == -signal.SIGKILL
    assert {path.name for path in (tmp_path / ".set.journal").iterdir() if path.is_dir()} == {"words", "houses"}
    (tmp_path / "qed.jsonl").write_text((tmp_path / "qed.jsonl").read_text().replace("House 3", "Mill 3"))
    prepare(recipe, tmp_path / "set")
    assert "Made again, for something else is given than in the call before: houses." in caplog.text
    assert contents(prepare(recipe, tmp_path / "at-once")) == contents(tmp_path / "set")


def test_a_library_that_is_not_there_leaves_nothing(recipe, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "py3langid", None)
    recipe.cleaning = CleaningSettings(identify_language=True)
    before = set(tmp_path.iterdir())
    with pytest.raises(ModuleNotFoundError, match=r"drdecr\[language\]"):
        prepare(recipe, tmp_path / "set")
    assert set(tmp_path.iterdir()) == before
    monkeypatch.undo()
    pytest.importorskip("py3langid")
    monkeypatch.setenv("DRDECR_DATA", str(tmp_path / "data"))
    prepare(recipe, tmp_path / "set")


def test_a_local_dataset_that_changed_is_not_mixed_with_what_was_read_before(tmp_path):
    rows = tmp_path / "rows" / "train.jsonl"
    rows.parent.mkdir()
    rows.write_text('{"query": "yksi sana", "english": "one word"}\n')
    recipe = PrepareRecipe([{"format": "hub", "name": str(rows.parent), "language": "fi", "name_of_source": "rows"}])
    assert [file["file"] for file in prepare_module.resolved(recipe.sources[0]).facts["files"]] == ["train.jsonl"]
    folder = prepare(recipe, tmp_path / "set")
    (rows.parent / ".cache").mkdir()
    (rows.parent / ".cache" / "train.jsonl.metadata").write_text("when it was got")
    assert prepare(recipe, folder) == folder
    rows.write_text('{"query": "kaksi sanaa", "english": "two words"}\n')
    with pytest.raises(ValueError, match="what differs: sources"):
        prepare(recipe, folder)


def test_the_files_of_the_recipes_languages_are_got_and_no_others(monkeypatch):
    got = []
    monkeypatch.setattr(catalogue, "download", lambda url, file, *_: got.append(file.name))
    with pytest.raises(FileNotFoundError, match=r"sw-en\.zip"):  # nothing came
        prepare_module.resolved({"source": "wikimatrix", "languages": ["sw"]}, download=True)
    assert got == ["sw-en.zip"]


@pytest.mark.parametrize(
    ("entry", "download", "said"),
    [
        (
            {"source": "mkqa-subset"},
            False,
            r"mkqa-subset: .*parallel\.jsonl: no such file.* from https://github\.com/apple",
        ),
        ({"source": "mkqa-subset"}, True, r"mkqa-subset: no address .* from https://github\.com/apple"),
        ({"source": "xor-tydi-train"}, False, r"xor-tydi-train: .* Get it with `drdecr data prepare --download`"),
        ({"source": "mkqa-subset", "path": "own.jsonl"}, True, r"mkqa-subset: own\.jsonl: no such file"),
    ],
)
def test_a_known_source_that_is_not_here_says_how_to_get_it(entry, download, said):
    with pytest.raises((FileNotFoundError, ValueError), match=said):
        prepare_module.resolved(entry, download)


def test_a_file_that_was_cut_off_is_refused_in_one_language_too(tmp_path):
    (tmp_path / "data/pud").mkdir()
    pairs(tmp_path / "data/pud/fi-en.tsv", 500)
    with pytest.raises(ValueError, match=r"pud: expected languages .'fi': 1000., got .*500.*/data/pud/fi-en\.tsv"):
        prepare(PrepareRecipe([{"source": "pud", "languages": ["fi"]}]), tmp_path / "set")
    assert {path.name for path in tmp_path.iterdir()} == {"data"}


def test_what_is_published_names_no_folder_of_this_machine(recipe, tmp_path, call):
    pairs(tmp_path / "data" / "more.tsv", 3, "talo")
    more = {"name_of_source": "more", "format": "tsv", "path": str(tmp_path / "data" / "more.tsv"), "languages": ["fi"]}
    recipe.sources.append(more)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"sources": recipe.sources, "rows_per_part": 20}))
    folder = tmp_path / "set"
    assert call("data", "prepare", tmp_path / "recipe.yaml", folder, "--processes=1")[0] == 0
    for name in ("README.md", "recipe.yaml", PROVENANCE):
        assert str(tmp_path) not in (folder / name).read_text()
    assert "command: `drdecr data prepare recipe.yaml set --processes=1`" in (folder / "README.md").read_text()
    kept = yaml.safe_load((folder / "recipe.yaml").read_text())["sources"]
    assert [source["path"] for source in kept] == ["{language}.tsv", "qed.jsonl", "$DRDECR_DATA/more.tsv"]
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "qed.jsonl").rename(tmp_path / "elsewhere" / "qed.jsonl")
    recipe.sources[1]["path"] = str(tmp_path / "elsewhere" / "qed.jsonl")
    with pytest.raises(ValueError, match="what differs: recipe, sources"):  # though it is shown alike
        prepare(recipe, folder)


@pytest.mark.parametrize(
    ("entry", "content", "message"),
    [
        ({"format": "texts"}, "", "held.jsonl: expected lines with 'question', got none"),
        (
            {"format": "tsv", "languages": ["fi"]},
            "\n",
            r"held_out: expected questions to hold out, got none .*held.jsonl",
        ),
        (
            {"format": "tsv", "languages": ["fi"]},
            "?\t!\n",
            "held_out: expected questions to hold out, got none with text of 2",
        ),
        ({"format": "texts", "colunm": "q"}, '{"question": "a"}', "takes path, column; got an unexpected .*'colunm'"),
        ({"format": "texts", "path": None}, "", "takes path, column; missing a required argument: 'path'"),
        ({"format": "texts"}, '{"question": 7}', "held.jsonl, line 1: expected a text as 'question', got 7"),
    ],
)
def test_a_held_out_set_that_would_hold_nothing_out_is_refused(entry, content, message, recipe, tmp_path):
    (tmp_path / "held.jsonl").write_text(content)
    named = {"path": str(tmp_path / "held.jsonl"), **entry}
    recipe.held_out = [{key: value for key, value in named.items() if value is not None}]
    with pytest.raises(ValueError, match=message):
        prepare(recipe, tmp_path / "set")
    assert not list(tmp_path.glob("*set*"))


def test_a_training_too_refuses_a_held_out_set_whose_column_is_misspelt(tmp_path):
    (tmp_path / "held.jsonl").write_text('{"question": "a"}')
    entry = {"format": "texts", "path": str(tmp_path / "held.jsonl")}
    assert texts_of([entry]) == ["a"]
    with pytest.raises(ValueError, match="takes path, column; got an unexpected keyword argument 'colunm'"):
        texts_of([{**entry, "colunm": "query"}])


def test_one_warning_lists_the_test_sets_that_are_not_held_out(recipe, tmp_path, caplog):
    (tmp_path / "data/squad-dev").mkdir()  # of xquad a part
    asked = {"id": "1", "question": "Who built the mill?", "answers": [{"text": "Anna"}]}
    article = {"title": "Mill", "paragraphs": [{"context": "Anna built the mill.", "qas": [asked]}]}
    (tmp_path / "data/squad-dev/dev-v1.1.json").write_text(json.dumps({"data": [article]}))
    prepare(recipe, tmp_path / "set")
    (said,) = (record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert "xquad" in said
    assert "xor-tydi-dev" in said
    assert "squad-dev" not in said


def test_a_benchmark_that_is_here_and_not_held_out_is_named(recipe, tmp_path, caplog):
    (tmp_path / "data/mkqa").mkdir()
    queries = {
        code: f"{code} kuka" for code in ("ar", "en", "es", "fi", "ja", "km", "ko", "ms", "ru", "sv", "tr", "zh_cn")
    }
    (tmp_path / "data/mkqa/mkqa_dev_parallel.jsonl").write_text(json.dumps({"queries": queries, **queries}) + "\n")
    warned = "Not held out, though some measure on them: mkqa-subset."
    prepare(recipe, tmp_path / "set")
    assert warned in caplog.text
    caplog.clear()
    recipe.held_out = [{"source": "mkqa-subset"}]
    prepare(recipe, tmp_path / "held-out")
    assert "some measure on them" not in caplog.text


@pytest.mark.parametrize(
    ("license", "said"),
    [
        ("CC BY-SA 4.0", {"license": "cc-by-sa-4.0"}),
        ("CC0", {"license": "cc0-1.0"}),
        ("CC BY 2.0 FR", {"license": "other", "license_name": "cc-by-2.0-fr"}),
        (
            "Apache-2.0; passages CC BY-SA 3.0",
            {"license": "other", "license_name": "apache-2.0-passages-cc-by-sa-3.0"},
        ),
    ],
)
def test_the_card_names_a_licence_that_the_hub_knows(license, said, recipe, tmp_path):
    recipe.license = license
    data = DatasetCard.load(prepare(recipe, tmp_path / "set") / "README.md").data.to_dict()
    assert {key: value for key, value in data.items() if key.startswith("license")} == said


def test_what_is_there_is_left_alone_and_never_mixed_with_another_recipe(recipe, tmp_path):
    folder = prepare(recipe, tmp_path / "set")
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert prepare(recipe, folder) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == times
    recipe.seed += 1
    with pytest.raises(ValueError, match="what differs: recipe"):
        prepare(recipe, folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"sources": [{"source": "xquad"}]}, "xquad is a test set"),
        ({"sources": [{"source": "xqad"}]}, "expected a name of `drdecr data sources`, got 'xqad'"),
        ({"sources": [{"format": "tvs", "path": "x"}]}, "expected one of tsv, lines"),
        ({"sources": [{"format": "qed", "path": "PATH", "share": 2}]}, "expected a `share` above 0"),
        ({"sources": [{"format": "qed", "path": "PATH"}] * 2}, "two are named 'qed'"),
        *(
            ({"sources": [{"format": "qed", "path": "PATH", "name_of_source": name}]}, "expected a `name_of_source`")
            for name in ("..", ".", ".a", "a/b", "/a", "../a")
        ),
        ({"sources": []}, "expected `sources`, got none"),
        ({"sourses": []}, "Did you mean 'sources'"),
        ({"sources": [{"format": "qed"}], "cleaning": {"max_lenght_ratio": 3}}, "Did you mean 'max_length_ratio'"),
        *(
            ({"sources": [{"format": "qed"}], "cleaning": cleaning}, f"cleaning: expected {expected}")
            for cleaning, expected in (
                ({"identify_language": "no"}, "true or false for 'identify_language', got 'no'"),
                ({"max_length_ratio": "4"}, "a number for 'max_length_ratio', got '4'"),
            )
        ),
        ({"sources": ["tico-19"]}, "for 'sources', got 'tico-19'"),
        (
            {"sources": [{"format": "qed", "path": "PATH"}], "held_out": ["xquad"]},
            "for 'held_out', got 'xquad'",
        ),
    ],
)
def test_a_recipe_that_cannot_be_meant_is_refused_in_words(content, message, tmp_path):
    (tmp_path / "qed.jsonl").write_text("")
    text = yaml.safe_dump(content).replace("PATH", str(tmp_path / "qed.jsonl"))
    (tmp_path / "recipe.yaml").write_text(text)
    result = CliRunner().invoke(app, ["data", "prepare", str(tmp_path / "recipe.yaml"), str(tmp_path / "set")])
    assert result.exit_code == 1
    assert message in str(result.exception)
    assert not (tmp_path / "set").exists()


def test_a_check_without_a_value_has_its_default(tmp_path):
    (tmp_path / "recipe.yaml").write_text(
        "sources: [{format: qed}]\ncleaning: {free_length: , min_script_share: 0.1}\n"
    )
    assert load_settings(PrepareRecipe, tmp_path / "recipe.yaml", [], "").cleaning == CleaningSettings(0.1)


@pytest.mark.parametrize("folder", [".", "..", "/"])
def test_a_folder_that_has_no_name_of_its_own_is_refused_in_words(folder, recipe):
    with pytest.raises(ValueError, match="expected a folder with a name of its own"):
        prepare(recipe, Path(folder))


def test_the_command_lists_prepares_and_verifies(recipe, tmp_path):
    listed = CliRunner().invoke(app, ["data", "sources"])
    assert "xor-tydi-questions" in listed.output.replace("\n", "")
    content = {"sources": recipe.sources, "license": "CC0 1.0"}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
    result = CliRunner().invoke(app, ["data", "prepare", str(tmp_path / "recipe.yaml"), str(tmp_path / "set")])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "set" / PROVENANCE).exists()
    assert "license: cc0-1.0" in (tmp_path / "set/README.md").read_text()
    assert (
        "as they were written" in CliRunner().invoke(app, ["data", "prepare", "--verify", str(tmp_path / "set")]).output
    )


def test_the_list_is_read_at_eighty_columns_and_one_source_is_shown_whole(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = CliRunner().invoke(app, ["data", "sources"]).output.splitlines()
    rows = {line.split()[0]: line for line in lines if line.strip()}
    assert all(len(line) <= 80 for line in lines)
    assert set(catalogue.catalogue()) < set(rows)  # each in a line of its own
    assert rows["qed"].split() == ["qed", "train", "1,343", "passages,", "1,355", "questions", "no"]
    shown = yaml.safe_load(CliRunner().invoke(app, ["data", "sources", "ms-marco-triples"]).output)
    source = catalogue.catalogue()["ms-marco-triples"]
    assert shown["home"] == source.home
    assert shown["files"] == [dict(file) for file in source.files]
    assert shown["note"] == source.note
    assert shown["caution"] == source.caution
    for name in catalogue.catalogue():
        assert yaml.safe_load(CliRunner().invoke(app, ["data", "sources", name]).output)["name"] == name
    assert "got 'nq2'" in str(CliRunner().invoke(app, ["data", "sources", "nq2"]).exception)


def own_set(folder: Path, name: str, query: str, text: str) -> dict[str, Any]:
    """Write a set of one question and one passage, whose id is `d1`."""
    question = {"query_id": f"{name}1", "query": query, "language": "fi", "document_ids": ["d1"]}
    for kind, row in (("questions", question), ("passages", {"document_id": "d1", "text": text})):
        (folder / f"{name}-{kind}.jsonl").write_text(json.dumps(row) + "\n")
    files = {kind: str(folder / f"{name}-{kind}.jsonl") for kind in ("questions", "passages")}
    return {"name_of_source": name, "format": "jsonl", **files}


def test_each_source_keeps_its_passages_whatever_ids_others_use(tmp_path):
    sets = {
        "a": ("missä talo on", "The house."),
        "b": ("missä joki on", "The river."),
        "c": ("mikä talo", "The house."),
    }
    sources = [own_set(tmp_path, name, *texts) for name, texts in sets.items()]
    folder = prepare(PrepareRecipe(sources), tmp_path / "set")

    def read(*names: str) -> dict[str, str]:
        entry = {"format": "prepared_questions", "folder": str(folder), "sources": list(names)}
        return dict(read_questions(entry).passages)

    assert [read(name) for name in sets] == [{"d1": text} for _, text in sets.values()]
    assert read("a", "c") == {"d1": "The house."}
    with pytest.raises(ValueError, match="passage 'd1' has in another source, got a different one"):
        read("a", "b")


def test_an_id_with_two_texts_in_one_source_is_refused(tmp_path):
    texts = {"triples": "1\t1\t2\n", "queries": "1\tmissä\n", "passages": "1\ta\n2\tb\n1\ta\n1\tc\n"}
    for name, text in texts.items():
        (tmp_path / f"{name}.tsv").write_text(text)
    files = {name: str(tmp_path / f"{name}.tsv") for name in texts}
    source = {"format": "id_triples", "language": "fi", **files}
    with pytest.raises(ValueError, match="id_triples, row 4: expected one text for passage 'triples/1', got a second"):
        prepare(PrepareRecipe([source], rows_per_part=3), tmp_path / "set")
    (tmp_path / "passages.tsv").write_text(texts["passages"][:-4])
    folder = prepare(PrepareRecipe([source], rows_per_part=1), tmp_path / "set")
    assert read_provenance(folder)["sources"][0]["dropped"] == {"repeated": 1}


@pytest.mark.parametrize("code", ["../../../y", "pt/br", "f i"])
def test_a_language_that_would_be_a_path_is_refused(code, tmp_path):
    rows = [{"id": "1", "question": "missä talo on", "answers": ["a"], "lang": lang} for lang in ("fi", code)]
    (tmp_path / "xor.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = set(tmp_path.iterdir())
    source = {"format": "xor_questions", "path": str(tmp_path / "xor.jsonl")}
    with pytest.raises(ValueError, match=rf"{tmp_path}/xor.jsonl.*row 2: expected a language code.* got '{code}'"):
        prepare(PrepareRecipe([source]), tmp_path / "set")
    assert set(tmp_path.iterdir()) == before


def test_half_a_surrogate_pair_drops_a_question_and_refuses_a_passage(tmp_path):
    rows = [{"id": "1", "question": "missä talo on", "answers": ["a", one], "lang": "fi"} for one in ("b\ud83d", "b")]
    (tmp_path / "xor.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"format": "xor_questions", "path": str(tmp_path / "xor.jsonl")}
    folder = prepare(PrepareRecipe([source]), tmp_path / "answers")
    assert read_provenance(folder)["sources"][0]["dropped"] == {"control_characters": 1}
    item = {"question": "where is it", "answers": [], "positive_ctxs": [{"title": "A", "text": "B \ud83d"}]}
    (tmp_path / "dpr.json").write_text(json.dumps([item]))
    source = {"format": "dpr", "path": str(tmp_path / "dpr.json")}
    with pytest.raises(ValueError, match=r"dpr, passage 'nq/.*': expected text, got half of a surrogate pair"):
        prepare(PrepareRecipe([source]), tmp_path / "passages")
