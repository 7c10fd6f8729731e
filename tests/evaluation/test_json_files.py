"""JSON files: whole or not at all."""

import json
import os

import pytest

from drdecr.data.files import check_survives_json, read_json_object, write_json_exactly


def test_a_file_holds_what_was_written_and_replaces_the_old_one(tmp_path):
    path = tmp_path / "a.json"
    for content in ({"x": 0.1 + 0.2, "y": "日本"}, {"x": 1e-300}):
        write_json_exactly(path, content)
        assert read_json_object(path, "x") == content
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_file_has_the_permissions_of_an_ordinary_one(tmp_path):
    (tmp_path / "ordinary").touch()
    write_json_exactly(tmp_path / "a.json", {})
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_the_goal_is_never_seen_half_written(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json_exactly(path, {"x": "old"})
    seen = []
    replace = os.replace

    def watching(source, goal):
        seen.append((json.loads(path.read_text()), json.loads(source.read_text())))
        replace(source, goal)

    monkeypatch.setattr(os, "replace", watching)
    write_json_exactly(path, {"x": "new"})
    assert seen == [({"x": "old"}, {"x": "new"})]


def test_a_missing_key_is_named(tmp_path):
    write_json_exactly(tmp_path / "a.json", {"x": 1})
    with pytest.raises(ValueError, match=r"a\.json should hold x, y, but lacks y"):
        read_json_object(tmp_path / "a.json", "x", "y")


def test_what_json_keeps_passes_and_what_it_changes_is_refused():
    check_survives_json("value", {"a": [1, 0.5, None, True, "x"]})
    for value in ({"a": (1,)}, {1: 2}, float("inf"), {"a": object()}):
        with pytest.raises(ValueError, match="value"):
            check_survives_json("value", value)
