import pytest

import tiny


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    return tiny.save_base(tmp_path_factory.mktemp("base"))
