"""What ``from l2m import …`` gives, and that it costs nothing until it is used."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import l2m

HEAVY = ("torch", "transformers", "pandas", "numpy", "matplotlib")


def test_importing_the_package_loads_nothing_heavy():
    code = f"import l2m, sys; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("name", l2m._PUBLIC)
def test_a_public_name_is_what_its_module_defines(name):
    assert getattr(l2m, name) is getattr(importlib.import_module(l2m._PUBLIC[name]), name)
    assert getattr(l2m, name).__module__ == l2m._PUBLIC[name]
    assert name in dir(l2m)


def test_no_module_hides_a_public_name():
    inside = {path.stem for path in Path(l2m.__file__).parent.iterdir()}
    assert not inside & l2m._PUBLIC.keys()


def test_other_names_are_an_error():
    with pytest.raises(AttributeError, match="module 'l2m' has no attribute 'nothing'"):
        l2m.nothing  # noqa: B018
    with pytest.raises(ImportError, match="nothing"):
        from l2m import nothing  # noqa: F401
