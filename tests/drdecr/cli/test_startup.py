"""Help comes at once, in a fresh process as a user starts it."""

import resource
import subprocess
import sys

import pytest


@pytest.mark.parametrize("words", [(), ("train",), ("data", "annotate"), ("index", "build")], ids=" ".join)
def test_help_takes_less_than_a_second_of_processor_time(words):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "drdecr", *words, "--help"], capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1
