"""The demo says how long it takes before its first stage begins."""

import pytest

from drdecr.runs import demo


@pytest.mark.parametrize(("quick", "minutes"), [(False, 11), (True, 5)])
def test_the_demo_begins_with_an_estimate_of_the_whole(quick, minutes, capsys, monkeypatch):
    printed = []

    def run_pipeline(pipeline, overrides, console):
        printed.append(" ".join(capsys.readouterr().err.split()))
        raise StopIteration  # the stages themselves are not of interest

    monkeypatch.setattr(demo, "run_pipeline", run_pipeline)
    with pytest.raises(StopIteration):
        demo.run_demo("unused", quick)
    assert printed[0].startswith(f"5 stages, then 6 systems to measure: about {minutes} minutes on two CPU cores")
