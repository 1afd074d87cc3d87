"""Every test starts from the same seeds, and hypothesis draws the same examples each time. Tests of pages are `browser`."""

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # also of the processes that tests start: `make test` runs a test on each core

import pytest
import torch
from hypothesis import settings

settings.register_profile("gloro", derandomize=True, deadline=None, max_examples=40, database=None)
settings.load_profile("gloro")
torch.set_num_threads(1)

PAGES = Path(__file__).parent / "book"


def pytest_collection_modifyitems(items):
    for item in items:
        if PAGES in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
