"""data.validation and evaluation.reference as a user meets them: choose on validation images, claim on test images."""

import numpy as np
import pytest

from .conftest import STRIDED, TINY, scored

CHOOSE = ["data.validation=40", "evaluation.reference=validation"]
EVERYTHING = (
    "metrics=[frechet_distance,kernel_distance,precision_recall,bits_per_dim,sliced_wasserstein,copying,bits_by_steps,diagnose,"
    "schedule_advice]"
)
LITTLE = [
    "metrics.bits_per_dim.num_images=4",
    *("metrics.bits_by_steps.num_steps=[2,3]", "metrics.bits_by_steps.num_images=4", "evaluation.statistics_images=8"),
    *("metrics.distance_by_log_snr.num_points=2", "metrics.distance_by_log_snr.num_images=8"),
    *("metrics.error_by_log_snr.num_points=2", "metrics.error_by_log_snr.num_images=8"),
    *("metrics.sliced_wasserstein.num_images=8", "metrics.sliced_wasserstein.patches=2"),
]

ON_CLUSTERS = ["condition=clusters", "condition.clusters.num_clusters=3"]
ON_CLUSTERS += ["start=data_moments", "sampler/spacing=optimal"]


@pytest.mark.thorough
def test_no_test_image_has_a_part_in_choosing(lab):
    """Two data sets that differ in their test images alone: the same losses, the same score."""
    found = []
    random = np.random.default_rng(0)
    images = random.integers(256, size=(160, 8, 8), dtype=np.uint8)
    for name, other in (("one", random), ("two", np.random.default_rng(1))):
        folder = lab.folder / name
        folder.mkdir()
        np.save(folder / "train.npy", images)
        np.save(folder / "test.npy", other.integers(other.integers(100, 256), size=(60, 8, 8), dtype=np.uint8))
        data = ["data=arrays", f"data.root={folder}", "data.train=train.npy", "data.test=test.npy"]
        sizes = [option for option in TINY if not option.startswith("metrics.")]
        where = [f"outputs={folder}/outputs", "network=diffusion/8x8", "variance=fixed_small", "val.every_n_steps=1"]
        options = [*data, *sizes, *STRIDED, *CHOOSE, *where, EVERYTHING, *LITTLE, *ON_CLUSTERS]
        assert "against 40 validation images" in lab.done("train", *options)
        (losses,) = folder.glob("outputs/models/*/metrics.csv")
        columns = [line.split(",") for line in losses.read_text().splitlines()]
        kept = [i for i, column in enumerate(columns[0]) if column in ("train/loss", "val/loss")]
        (content,) = scored(folder)
        protocol = content["protocol"]
        assert protocol["bits_by_steps"]["split"] == protocol["advice"]["split"] == "validation"
        for digest in ("data", "model_directory", "fingerprint", "read"):
            del protocol[digest]
        del protocol["model"]["start"]
        found.append(([[line[i] for i in kept] for line in columns], content))
    assert found[0][0][0] == ["train/loss", "val/loss"]
    (losses, one), (other_losses, other) = found
    assert losses == other_losses
    assert one == other


def test_a_model_chosen_on_validation_is_scored_on_test(lab):
    lab.done("train", *TINY, *STRIDED, *CHOOSE)
    out = lab.done("evaluate", "evaluation.reference=test", "metrics=[frechet_distance,bits_per_dim]")
    assert "against 360 test images" in out
    runs = [run["protocol"] for run in scored(lab.folder)]
    before, after = sorted(runs, key=lambda protocol: protocol["reference"]["split"], reverse=True)
    assert before["reference"] == {"split": "validation", "num_images": 40}
    assert after["reference"] == {"split": "test", "num_images": 360}
    assert (before["bound"]["split"], after["bound"]["split"]) == ("validation", "test")


def test_others_samples_are_compared_with_validation_images(lab):
    grey = np.random.default_rng(0).integers(256, size=(50, 8, 8, 1), dtype=np.uint8)
    np.savez(lab.folder / "made.npz", arr_0=grey.repeat(3, axis=3))
    given = ["samples=made.npz", "data=digits", "features=pixels", "metrics=frechet_distance"]
    lab.done("evaluate", *given, *CHOOSE)
    (run,) = scored(lab.folder)
    assert run["protocol"]["reference"] == {"split": "validation", "num_images": 40}
    lab.refused("evaluate", *given, "evaluation.reference=validation", said="data.validation=N")
