import pytest

import tiny


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    return tiny.save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def checkpoints(base, tmp_path_factory):
    """{method: folder}, none of them trained."""
    return tiny.save_checkpoints(base, tmp_path_factory.mktemp("checkpoints"))
