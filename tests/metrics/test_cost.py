from types import SimpleNamespace

from diffusion_lab.metrics.cost import Cost, NetworkEvaluations
from diffusion_lab.metrics.effort import Effort
from diffusion_lab.metrics.settings import Evaluation
from tests.metrics.stand_ins import GaussianModel

EFFORTS = [Effort([(10, 9.0), (10, 0.5)], True, "cpu", 2, 5, 300.0, "of a process")] * 2


def subject(**training):
    return SimpleNamespace(
        drawn=SimpleNamespace(efforts=EFFORTS),
        settings=Evaluation(batch_size=10),
        generator=GaussianModel(),
        source=SimpleNamespace(training=training),
    )


def test_costs_are_those_of_drawing_and_of_training():
    found = Cost().score(subject(steps=20, seconds=3.0, images=160))
    assert found.values == {
        "seconds_per_1000_samples": 50.0,
        "peak_memory_mib": 300.0,
        "parameters": 1,
        "training_steps": 20,
        "training_seconds": 3.0,
        "training_images": 160,
        "flops_per_sample": 1000 * 5,
    }
    assert found.protocol["cost"]["timed_images"] == 20, "without the first batch of each process"
    assert NetworkEvaluations().score(subject()).values == {"nfe": 5}


def test_what_was_not_recorded_has_a_reason():
    found = Cost().score(subject(steps=None, seconds=None))
    assert found.protocol["absent"].keys() == {"training_steps", "training_seconds"}
