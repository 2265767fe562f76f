from typing import NamedTuple

import pytest

from tests.metrics.random_inception import write_random_weights


class Weights(NamedTuple):
    path: str
    sha256: str


@pytest.fixture(scope="session")
def random_inception(tmp_path_factory) -> Weights:
    """A weights file for `InceptionFeatures`, and its digest: InceptionFeatures(*random_inception) would miss `download`."""
    path = tmp_path_factory.mktemp("inception") / "random.pth"
    return Weights(str(path), write_random_weights(path))
