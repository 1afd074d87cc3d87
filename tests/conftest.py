"""Every test starts from the same seeds, and hypothesis draws the same examples each time."""

import pytest
import torch
from hypothesis import settings

settings.register_profile("gloro", derandomize=True, deadline=None, max_examples=40, database=None)
settings.load_profile("gloro")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
