"""Every experiment composes, is built and trains two steps, on data in their true format that are small enough.

Not scored: the covariance of 64×64 colour pixels alone is a gigabyte."""

import json

import pytest
from hydra import compose, initialize_config_dir

from diffusion_lab.conf_dir import CONF
from tests.commands.conftest import TINY
from tests.data.small_sets import SMALL

SMALL_IMAGES = ("digits", "fashion")
EXPERIMENTS = [
    pytest.param(name, marks=[] if any(data in name for data in SMALL_IMAGES) else pytest.mark.thorough)
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
    code, _, err = lab("train", f"experiment={name}", *options)
    assert code == 0, err
    (model,) = (lab.folder / "outputs" / "models").iterdir()
    assert model.name.startswith(f"{chosen.data}-diffusion-")
    assert json.loads((model / "training.json").read_text())["steps"] == 2


def test_another_choice_than_the_experiments_leaves_its_options_behind(lab):
    options = [*TINY, "score=false", "experiment=edm_digits"]
    code, out, err = lab("train", *options, "sampler/spacing=all")
    assert code == 0, err
    assert "ignoring sampler.spacing.num_steps: experiment=edm_digits sets it for a different choice" in out
    code, out, err = lab("train", *options, "sampler=ddim", "sampler/spacing=all")
    assert code == 0, err
    assert out.count("sampler.spacing.num_steps") == 1
    sweep = ["sampler/spacing=all,karras", "hydra.sweeper.dry_run=true"]
    code, out, err = lab("train", "-m", *options, *sweep)
    assert code == 0, err
    assert "2 cells" in " ".join(out.split())
    code, _, err = lab("train", *options, "sampler/spacing=all", "sampler.spacing.num_steps=3")
    assert code == 1
    assert "no option num_steps" in err
    code, out, err = lab(
        "train", "-m", *options, "sampler/spacing=all,karras", "sampler.spacing.num_steps=3,4", sweep[1]
    )
    assert code == 0, err
    assert "3 cells" in " ".join(out.split())
