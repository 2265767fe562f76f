"""A user's mistake: one clear sentence that names it, exit code 1, no traceback, nothing written."""

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
    "no steps": (["schedule.num_timesteps=0"], ["num_timesteps = 0"]),
    "more sampling steps than the chain has": (["sampler.spacing.num_steps=500"], ["num_steps=500", "24 steps"]),
    "learned variance under L_simple": (["variance=learned", "objective=simple"], ["LearnedRange", "objective=hybrid"]),
    "impossible decay": (["ema.decays=[1.5]"], ["ema.decays", "1.5"]),
    "unknown weights": (["evaluation.weights=ema_0.5"], ["evaluation.weights=ema_0.5", "ema_0.999"]),
    "too few samples": (["evaluation.num_samples=1"], ["evaluation.num_samples", "at least 2"]),
    "impossible batch": (["data.batch_size=0"], ["data.batch_size=0"]),
    "no end": (["trainer.max_steps=-1"], ["trainer.max_steps", "trainer.max_time"]),
    "features for other images": (["data=gaussian", "features=digits_cnn"], ["digits_cnn", "(1, 8, 8)"]),
    "missing folder": (["data=image_folder", "data.root=nowhere", "data.image_size=8"], ["nowhere"]),
    "nothing where something is needed": (["data=image_folder"], ["data.root has no value; set data.root=…"]),
    "word for a number": (["trainer.max_steps=many"], ["max_steps", "many"]),
    "word for yes or no": (["conditional=maybe"], ["conditional=maybe: this option must be true or false"]),
    "word for steps": (["val.every_n_steps=foo"], ["val.every_n_steps=foo: this option must be a whole number"]),
    "word for images": (["data.batch_size=abc"], ["data.batch_size=abc: this option must be a whole number"]),
    "word for a rate": (["optimizer.lr=abc"], ["optimizer.lr=abc: this option must be a number"]),
    "part of a batch": (["trainer.accumulate_grad_batches=1.5"], ["trainer.accumulate_grad_batches=1.5: this option"]),
    "number for a list": (["ema.decays=0.9"], ["ema.decays=0.9: this option must be a list"]),
    "no images": (["train_images=0"], ["train_images=0: give a number of images"]),
    "Lightning's fast_dev_run": (["+trainer.fast_dev_run=true"], ["trainer.fast_dev_run=True", "use debug=fdr"]),
    "a class that is not there": (["network._target_=nowhere.Net"], ["nowhere.Net", "cannot import"]),
    "negative seed": (["seed=-1"], ["seed=-1", "2**64 - 1"]),
    "negative seed of the grids": (
        ["callbacks.sample_grid.seed=-1"],
        ["callbacks.sample_grid.seed=-1 must be a whole number from 0 to 2**64 - 1"],
    ),
    "grids without images": (
        ["callbacks.sample_grid.num_images=0"],
        ["callbacks.sample_grid.num_images=0 must be at least 1", "callbacks.sample_grid.every_n_steps=0"],
    ),
    **{
        f"weights of {precision}": (
            [f"trainer.precision={precision}"],
            [f"trainer.precision={precision}: choose 32-true, bf16-mixed, 16-mixed or auto"],
        )
        for precision in ("64-true", "64", "bf16-true", "16-true", "transformer-engine")
    },
    "seed of too many bits": (["seed=18446744073709551616"], ["seed=18446744073709551616", "2**64 - 1"]),
    "learned range on a straight path": (
        ["schedule=rectified"],
        ["LearnedRange has β_t as its upper bound", "variance=fixed_small"],
    ),
    "a cut beyond the end": (["schedule.log_snr_min=-40"], ["cannot cut CosineSchedule at log SNR -40"]),
    "too little noise": (["sampler=ddim", "sampler.eta=1.5"], ["eta = 1.5", "between 0"]),
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


@pytest.mark.parametrize("command", ["evaluate", "sample"])
def test_a_model_is_needed(lab, command):
    code, _, err = lab(command)
    assert code == 1
    assert "there is no trained model in outputs/models" in err
    code, _, err = lab(command, "model_dir=elsewhere")
    assert code == 1
    assert "elsewhere" in err
    assert files(lab.folder) == []


@pytest.mark.parametrize("group", ["data", "schedule", "optimizer"])
def test_what_is_chosen_in_training_is_not_chosen_later(lab, group):
    code, _, err = lab("report", f"{group}=linear")
    assert code == 1
    assert (
        err == f"diffusion-lab report: {group} is chosen in training (diffusion-lab train {group}=…), not in report\n"
    )


@pytest.mark.parametrize(("command", "option"), [("train", "decoder_likelihood"), ("report", "metrics")])
def test_another_family_s_group_and_one_of_scoring_are_not_said_to_be_chosen_in_training(lab, command, option):
    code, _, err = lab(command, f"{option}=gaussian")
    assert code == 1
    assert f"there is no option '{option}'" in err


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


def test_an_error_of_ours_keeps_its_traceback(lab, monkeypatch):
    from diffusion_lab.commands import train

    def broken(cfg):
        raise KeyError("a bug")

    monkeypatch.setattr(train, "run", broken)
    with pytest.raises(KeyError, match="a bug"):
        lab("train")
