"""Every experiment composes, is built and trains two steps, on data in their true format that are small enough.

Not scored: the covariance of 64×64 colour pixels alone is a gigabyte."""

import json

import pytest
from hydra import compose, initialize_config_dir

from diffusion_lab.conf_dir import CONF
from tests.commands.conftest import TINY
from tests.data.small_sets import SMALL

EXPERIMENTS = [
    pytest.param(name, marks=[] if "digits" in name else pytest.mark.thorough)
    for name in sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_trains_two_steps(lab, monkeypatch, name):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        chosen = compose("train", overrides=[f"experiment={name}"], return_hydra_config=True).hydra.runtime.choices
    options = [*TINY, "score=false"]
    if write := SMALL.get(chosen.data):
        options.append(f"data.root={write(lab.folder / 'data', monkeypatch)}")
    if chosen.sampler != "ddpm":
        options.append("sampler.spacing.num_steps=3")
    if chosen.labels != "own":
        options.append("labels.num_clusters=3")
    lab.done("train", f"experiment={name}", *options)
    (model,) = (lab.folder / "outputs" / "models").iterdir()
    assert model.name.startswith(f"{chosen.data}-diffusion-")
    assert json.loads((model / "training.json").read_text())["steps"] == 2


def test_another_choice_than_the_experiments_leaves(lab):
    """Another choice than the experiments leaves its options behind."""
    options = [*TINY, "score=false", "experiment=edm_digits"]
    out = lab.done("train", *options, "sampler/spacing=all")
    assert "ignoring sampler.spacing.num_steps: experiment=edm_digits sets it for a different choice" in out
    out = lab.done("train", *options, "sampler=ddim", "sampler/spacing=all")
    assert out.count("sampler.spacing.num_steps") == 1
    sweep = ["sampler/spacing=all,karras", "hydra.sweeper.dry_run=true"]
    out = lab.done("train", "-m", *options, *sweep)
    assert "2 cells" in " ".join(out.split())
    lab.refused("train", *options, "sampler/spacing=all", "sampler.spacing.num_steps=3", said="no option num_steps")
    out = lab.done("train", "-m", *options, "sampler/spacing=all,karras", "sampler.spacing.num_steps=3,4", sweep[1])
    assert "3 cells" in " ".join(out.split())
