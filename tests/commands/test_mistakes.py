"""A user's mistake: one clear sentence that names it, exit code 1, no traceback, nothing written."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import STRIDED, TINY, files
from .test_conf import choices

MISTAKES = {
    "misspelt option": (["trainer.max_step=3"], ["trainer.max_step", "did you mean trainer.max_steps?"]),
    "misspelt group": (["shedule=linear"], ["shedule", "did you mean schedule?"]),
    "misspelt choice": (
        ["schedule=cosin"],
        ["schedule=cosin", f"one of {', '.join(choices('schedule'))}; did you mean cosine?"],
    ),
    "unreadable override": (["schedule"], ["schedule", "option=value"]),
    "linear with too few steps": (["schedule=linear", "schedule.num_timesteps=20"], ["num_timesteps = 20", "≥ 21"]),
    "more sampling steps than the chain has": (["sampler.spacing.num_steps=500"], ["num_steps=500", "24 steps"]),
    "learned variance under L_simple": (["variance=learned", "objective=simple"], ["LearnedRange", "objective=hybrid"]),
    "unknown weights": (["evaluation.weights=ema_0.5"], ["evaluation.weights=ema_0.5", "ema_0.999"]),
    "too few samples": (["evaluation.num_samples=1"], ["evaluation.num_samples", "at least 2"]),
    "features for other images": (["data=gaussian", "features=digits_cnn"], ["digits_cnn", "(1, 8, 8)"]),
    "missing folder": (["data=image_folder", "data.root=nowhere", "data.image_size=8"], ["nowhere"]),
    "word for a number": (["trainer.max_steps=many"], ["max_steps", "many"]),
    "word for steps": (["val.every_n_steps=foo"], ["val.every_n_steps=foo: this option must be a whole number"]),
    "number for a list": (["ema.decays=0.9"], ["ema.decays=0.9: this option must be a list"]),
    "no images": (["train_images=0"], ["train_images=0: give a number of images"]),
    "Lightning's fast_dev_run": (["+trainer.fast_dev_run=true"], ["trainer.fast_dev_run=True", "use debug=fdr"]),
    "a class that is not there": (["network._target_=nowhere.Net"], ["nowhere.Net", "cannot import"]),
    "grids without images": (
        ["callbacks.sample_grid.num_images=0"],
        ["callbacks.sample_grid.num_images=0 must be at least 1"],
    ),
    **{
        f"weights of {precision}": (
            [f"trainer.precision={precision}"],
            [f"trainer.precision={precision}: choose 32-true, bf16-mixed, 16-mixed or auto"],
        )
        for precision in ("64-true", "64", "bf16-true", "16-true", "transformer-engine")
    },
    "learned range on a straight path": (
        ["schedule=rectified"],
        ["LearnedRange has β_t as its upper bound", "variance=fixed_small"],
    ),
    "a cut beyond the end": (["schedule.log_snr_min=-40"], ["cannot cut CosineSchedule at log SNR -40"]),
}


@pytest.mark.parametrize(("options", "said"), MISTAKES.values(), ids=MISTAKES)
def test_train_says_what_is_wrong_and_writes_nothing(lab, options, said):
    tiny = [
        o
        for o in (*TINY, *STRIDED)
        if "data=" not in "".join(options) or not o.startswith(("network", "data", "features"))
    ]
    code, _, err = lab("train", *tiny, *options)
    assert code == 1
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1, err
    assert err.startswith("diffusion-lab train: ")
    for words in said:
        assert words in err
    assert files(lab.folder) == []


# Each is refused with one sentence that names an option or its value. One for each place in the code that refuses: which values a
# class or a yaml refuses is tested beside it.
WRONG = r"""
train trainer.accumulate_grad_batches=0
demo port=abc
train weighting=min_snr weighting.gamma=0
train optimizer.lr=0
train optimizer.momentum=2
train optimizer=adamw optimizer.betas=[0.9]
train trainer.gradient_clip_val=-1
train callbacks.finite.stop_after=0
train train_images=100000
train outputs=
train features=[]
train trainer.precision=16-mixed
train -m seed=1,1
train model=gan schedule=linear
train trainer.max_steps=1.5
train trainer.max_time=abc
train trainer.devices=0
train trainer.profiler=foo
train ema.decays=[0.9,0.9]
train snapshots.at=[2]
train tags=abc
train schedule.max_beta=2
train schedule=linear schedule.beta_start=0.5
train schedule=sigmoid schedule.start=3 schedule.end=-3
train schedule=edm schedule.sigma_min=0 variance=fixed_small
train schedule=learned schedule.num_bins=0 variance=fixed_small objective=vlb_continuous
train sampler.spacing.num_steps=0
train sampler.order=0
train sampler/spacing=karras sampler.spacing.rho=0
train objective.vlb_weight=-1
train network.base_channels=0
train network.head_channels=3
train network.dropout=1.5
train model.label_dropout=2
train lr_scheduler.warmup_steps=-1
train timesteps=loss_aware timesteps.uniform_probability=2
train prediction=edm prediction.data_std=0
train guidance=classifier_free guidance.interval=[3]
train guidance=autoguidance guidance.moment=2
train evaluation.seed=-1
train evaluation.weights=foo
train labels=clusters labels.num_clusters=0
train init_from=nowhere
train data=mixture data.num_components=0
train data=image_folder data.root=. data.channels=2
train data=image_folder data.root=. data.test_fraction=2
train data=arrays data.train=no.npy
train model=gan model.max_grad_norm=-1
train model=vae model.beta=-1
train model=vae decoder_likelihood.num_mixtures=0
train model=flow sampling.temperature=0
train model=flow network.margin=0.6
train rounding=ends rounding.error=-1
evaluate rescore=yes
evaluate model_dir=a,b
evaluate samples=nowhere data=digits
evaluate guidance.scale=nan
evaluate metrics=[]
evaluate variance=learned_jointly
sample num_images=0
sample seed=-1
sample label=0
sample format=jpg
sample inpaint.mask=a.png
sample inpaint.image=0
sample inpaint.image=99999 inpaint.mask=a.png
sample inpaint.image=0 inpaint.mask=nowhere.png
sample interpolate.images=[1]
export format=onnx
schedule num_images=0
statistics data=digits
report sweep=nothing
report runs=[]
report sweep=a runs=b
prune remove=no
prune what=foo
status watch=no
doctor outputs=3
dashboard outputs=nowhere
import checkpoint=nowhere.pt
train +trainer.benchmark=3
train features.pixels=3
train ~data.batch_size
train bound.num_steps=1.5
train val.every_n_steps=-1
train model=vae sampling.means=maybe
train model=flow sampling.temperature=abc
train -m sweep.jobs_per_model=0 seed=1,2
evaluate bound=log_snr bound.num_steps=abc
evaluate data.root=[a]
sample inpaint.repeats=0
sample interpolate.images=a
sample model_dir=[a]
demo port=65536
"""


@pytest.mark.parametrize("line", WRONG.split("\n")[1:-1])
def test_a_wrong_value_is_one_sentence(lab, line):
    command, *options = shlex.split(line)
    if command in ("evaluate", "sample", "export"):
        lab.given("train", *TINY, *STRIDED)
    parts_of_its_own = ("network", "schedule", "sampler", "labels") if "data=" in line or "model=" in line else ()
    tiny = [o for o in (*TINY, *STRIDED) if command == "train" and not o.startswith(parts_of_its_own)]
    flags = [o for o in options if o.startswith("-")]
    before = files(lab.folder)
    code, _, err = lab(command, *flags, *tiny, *options[len(flags) :])
    assert (code, len(err.strip().splitlines())) == (1, 1), err
    named = [
        part for o in options for part in (o.partition("=")[0].rpartition(".")[2], o.partition("=")[2].strip("'\""))
    ]
    assert any(part and part in err for part in named), err
    assert files(lab.folder) == before


def test_m_may_stand_between_options(lab):
    code, _, err = lab("train", *TINY, "-m", "seed=1,1")
    assert (code, err) == (1, "diffusion-lab train: seed=1,1: remove the repeated value\n")


@pytest.mark.parametrize("line", ["train network.base_channels=100000000", "sample num_images=1000000000000000000"])
def test_absurd_sizes_are_out_of_memory(lab, line):
    command, option = line.split()
    lab.given("train", *TINY, *STRIDED)
    lab.refused(
        command,
        *(TINY if command == "train" else ()),
        *(STRIDED if command == "train" else ()),
        option,
        said="out of memory",
    )


@pytest.mark.skipif(sys.platform == "win32", reason="there is no ulimit")
def test_a_file_that_grows_too_large_is_one_sentence(lab):
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, limits[1]))
    try:
        code, _, err = lab("train", *TINY, *STRIDED)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 1
    assert "ulimit -f" in err
    assert len(err.strip().splitlines()) == 1


def test_brackets_in_a_folder_are_printed_as_they_are(lab):
    assert "runs[/b]x/models/" in lab.done("train", *TINY, *STRIDED, "outputs='runs[/b]x'")


def test_a_number_larger_than_the_data_is_noted(lab):
    out = lab.done(
        "train", *TINY, *STRIDED, "score=false", "data.batch_size=2000", "val.num_images=999999", "trainer.max_steps=1"
    )
    assert "data.batch_size=2000: there are 1437" in out
    assert "val.num_images=999999" in out


@pytest.mark.parametrize("command", ["evaluate", "sample"])
def test_a_model_is_needed(lab, command):
    lab.refused(command, said="there is no trained model in outputs/models")
    lab.refused(command, "model_dir=elsewhere", said="elsewhere")


@pytest.mark.parametrize("group", ["data", "schedule", "optimizer"])
def test_what_is_chosen_in_training_is_not_chosen_later(lab, group):
    code, _, err = lab("report", f"{group}=linear")
    assert code == 1
    assert (
        err == f"diffusion-lab report: {group} is chosen in training (diffusion-lab train {group}=…), not in report\n"
    )


@pytest.mark.parametrize(
    ("command", "option", "said"),
    [
        ("train", "decoder_likelihood", "not a part of the model that you chose"),
        ("report", "metrics", "there is no option 'metrics'"),
    ],
)
def test_a_group_of_another_model_or_command(lab, command, option, said):
    lab.refused(command, f"{option}=gaussian", said=said)


def test_a_real_process_ends_with_the_sentence_and_a_code(process):
    done = process("train", "schedule=cosin")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        "diffusion-lab train: schedule=cosin: there is no such choice; choose one of "
        f"{', '.join(choices('schedule'))}; did you mean cosine?\n"
    )
    done = process("trian")
    assert done.returncode == 2
    assert done.stderr == "diffusion-lab: there is no command 'trian'; did you mean train?\n"
    assert files(process.folder) == []


@pytest.mark.parametrize("line", ["status --help <&- >&-", pytest.param("doctor", marks=pytest.mark.thorough)])
def test_streams_that_are_closed_or_lack_signs(tmp_path, line):
    done = subprocess.run(
        f"{Path(sys.executable).parent / 'diffusion-lab'} {line}",
        shell=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""


def test_a_removed_working_directory_is_one_sentence(tmp_path):
    command = f"mkdir gone && cd gone && rmdir ../gone && {Path(sys.executable).parent / 'diffusion-lab'} status"
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("diffusion-lab: the working directory was removed: ")
    assert len(done.stderr.splitlines()) == 1


def test_an_error_of_ours_keeps_its_traceback(lab, monkeypatch):
    from diffusion_lab.commands import train

    def broken(cfg):
        raise KeyError("a bug")

    monkeypatch.setattr(train, "run", broken)
    with pytest.raises(KeyError, match="a bug"):
        lab("train")


def test_a_folder_with_too_long_a_name_is_one_sentence(lab):
    lab.refused("train", *TINY, *STRIDED, f"outputs={'x' * 300}", said="is too long a name")
