from __future__ import annotations

import pytest

from diffusion_lab.store import SweepDirectory

from .synthetic import write_sweep


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> SweepDirectory:
    """The sweep of issue and README, finished: 60 cells, 30 rows."""
    return write_sweep(tmp_path_factory.mktemp("outputs"))
