"""The public face: cheap to import, and complete."""

import subprocess
import sys

import pytest

import drdecr


def test_importing_the_package_does_not_import_torch():
    code = "import sys, drdecr; sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'datasets')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", drdecr.__all__)
def test_every_public_name_resolves(name):
    found = getattr(drdecr, name)
    assert name == "__version__" or found.__name__ == name
    assert name in dir(drdecr)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'DrDecr'"):
        _ = drdecr.DrDecr
