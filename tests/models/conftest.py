import pytest

from diffusion_lab.sampling import ClassifierFree
from tests.models.stand_ins import guided_points


@pytest.fixture
def snapshots(tmp_path):
    """A trained model, and what it was earlier."""
    trained = guided_points(ClassifierFree(1.0), num_classes=3)
    found = {name: tmp_path / f"{name}.safetensors" for name in ("raw", "ema_0.9", "at_0.2")}
    for number, name in enumerate(found):
        trained.averages[name] = {key: p + 0.05 * number for key, p in trained.named_parameters()}
    trained.save_weights(found)
    return found
