import json

import pytest
import torch

import tiny  # first: it makes the stage's modules importable


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    return tiny.save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def rows(tmp_path_factory):
    """80 rows of L ids with a period of 40, so that attention at a fixed distance, hence the rope, pays."""
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    generator = torch.Generator().manual_seed(0)
    with path.open("w") as file:
        for _ in range(80):
            period = torch.randint(2, 66, (40,), generator=generator).tolist()
            file.write(json.dumps({"input_ids": (period * 7)[: tiny.L]}) + "\n")
    return path
