import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import making  # noqa: E402


@pytest.fixture(scope="session")
def study(tmp_path_factory):
    """The result files of a whole study; read only."""
    return making.study(tmp_path_factory.mktemp("study"))
