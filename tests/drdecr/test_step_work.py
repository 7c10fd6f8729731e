"""Unfinished work of a step: nobody deletes what another call is at, or what was dear."""

import pytest

from drdecr.data.step_work import StepWork, run_step


def test_a_second_call_is_kept_out_and_deletes_nothing(tmp_path):
    with StepWork(tmp_path / "set", {"depth": 1}, {}) as work:
        with (
            pytest.raises(ValueError, match=r"set\.parts: another call is at work there"),
            StepWork(tmp_path / "set", {"depth": 1}, {}),
        ):
            pytest.fail("it was let in")
        assert (work.folder / "plan.json").exists()
    with StepWork(tmp_path / "set", {"depth": 1}, {}) as again:
        assert again.folder.exists()


@pytest.mark.parametrize("error", [ValueError, RuntimeError, OSError])
def test_a_failure_leaves_what_was_dear_and_nothing_else(error, tmp_path):
    def fail(work):
        (work.cheap("questions") / "0.parquet").parent.mkdir(parents=True)
        (work.folder / "questions" / "0.parquet").write_bytes(b"rows")
        if work.facts["settings"]["encodes"]:
            (work.folder / "tokens").mkdir()
            (work.folder / "tokens" / "0.safetensors").write_bytes(b"tokens")
        raise error

    for encodes in (False, True):
        with pytest.raises(error):
            run_step(tmp_path / "set", {"encodes": encodes}, {}, fail)
        assert (tmp_path / "set.parts").exists() == encodes
    with pytest.raises(ValueError, match=r"begun with something else \(what differs: settings\)"):
        run_step(tmp_path / "set", {"encodes": False}, {}, fail)
    assert (tmp_path / "set.parts" / "tokens" / "0.safetensors").read_bytes() == b"tokens"


def test_a_folder_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "set.parts" / "mine").mkdir(parents=True)
    (tmp_path / "set.parts" / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="got files of another kind"):
        run_step(tmp_path / "set", {}, {}, lambda work: None)
    assert (tmp_path / "set.parts" / "mine" / "letter.txt").read_text() == "dear"
