"""A user's mistake: one clear sentence that names it, exit code 1, no traceback, nothing written."""

import re
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from diffusion_lab import versions

from .conftest import STRIDED, TINY, files

# Each is refused with one sentence that names an option or its value. One for each way to refuse: which values a class refuses is
# tested beside it.
WRONG = r"""
train trainer.accumulate_grad_batches=0
train optimizer.lr=0
train trainer.gradient_clip_val=-1
train callbacks.finite.stop_after=0
train train_images=100000
train outputs=
train features=[]
train -m seed=1,1
train model=gan schedule=linear
train model=noisy_classifier timesteps=loss_aware
train --config-dir=nowhere
train trainer.max_time=abc
train trainer.profiler=foo
train tags=abc
train schedule.max_beta=2
train network.base_channels=0
train data=digits network=diffusion/points
train model=gan network=gan/points
train network.head_channels=3
train evaluation.weights=foo
train init_from=nowhere
train data=arrays data.train=no.npy
evaluate model_dir=a,b
evaluate samples=nowhere data=digits
evaluate variance=learned_jointly
sample num_images=0
sample seed=-1
sample condition=0
sample format=jpg
sample inpaint.mask=a.png
sample inpaint.image=0
sample inpaint.image=99999 inpaint.mask=a.png
sample inpaint.image=0 inpaint.mask=nowhere.png
sample denoise.image=0
sample denoise.image=0 denoise.t=3 trajectory=true
sample interpolate.images=[1]
sample interpolate.images=[0,1] denoise.image=0
export format=onnx
schedule num_images=0
statistics data=digits
report sweep=nothing
report sweep=a runs=b
prune what=foo
import checkpoint=nowhere.pt
train ~data.batch_size
train val.every_n_steps=-1
sample inpaint.repeats=0
demo port=65536
train schedule
train sampler.spacing.num_steps=500
train variance=learned objective=simple
train data=image_folder data.root=nowhere data.image_size=8
train train_images=0
train network._target_=nowhere.Net
train network.nonsense=1
train condition=classes data=gaussian
train guidance=classifier_free
train model=vae sampling=temperature
train model=gan trainer.gradient_clip_val=1.0
train model=gan trainer.accumulate_grad_batches=2
train model=gan adversarial_loss=wasserstein_gp regularizer=r1
train decoder_likelihood=gaussian
train schedule@x=linear
train val.every_n_steps=1 '+callbacks.a={_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: val_loss}'
train +callbacks.a._target_=torch.nn.Identity
train callbacks.monitor=null
train callbacks=null
train +logger.wandb.project=mine
train +logger.a._target_=torch.nn.Identity
train logger=csv +logger.csv.fold=x
train hydra/launcher=slurm
train hydra.sweeper.name=x
train evaluation.at=[7steps]
train evaluation.at=[2steps,end] evaluation.weights=raw
train evaluation.weights=ema_rel_0.05 snapshots.averages=0
train evaluation.weights=ema_rel_0.4
train data.validation=1437
train data.on_device=true
train data.on_device=maybe
train compile=graphs
train +metrics.mine._target_=torch.nn.Identity
train -m +trainer.barebones=true
train -m +trainer.min_steps=x seed=1,2
train -m sampler=ddpm,strided sampler.eta=0,1
train -m objective=simple,hybrid variance=learned
train -m schedule=linear,cosin
train -m optimizer.weight_decay=interval(0,1)
train -m seed=1,2 hydra.sweeper.name=a/b
train -m data=digits,image_folder
train -m model=noisy_classifier seed=1,2 score=true
train -m hydra/launcher=slurm trainer.devices=auto
train -m hydra/launcher=slurm hydra.launcher.time={gann:60,default:90}
train -m hydra/launcher=slurm hydra.launcher.time={gan:60}
train snapshots.at=[60s,1m]
train +trainer.limit_train_batches=0.5
features
features data=mixture
features data=digits num_steps=0
statistics data=digits to=a.pkl
statistics data=digits to=a.pt moments=false
statistics data=digits to=a.npz split=all
statistics data=two_moons to=a.npz
statistics data=digits to=a.npz features=[digits_cnn,digits_resnet]
evaluate samples=a.npz
evaluate samples=a.npz data=digits sampler=ddim
report
report runs=nowhere/*
report runs=.
"""


# Every third line in the plain run, all in CI.
@pytest.mark.parametrize(
    "line",
    [pytest.param(line, marks=pytest.mark.thorough if i % 3 else ()) for i, line in enumerate(WRONG.split("\n")[1:-1])],
)
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
    said = err.removeprefix(f"diffusion-lab {command}: ")
    assert said != err
    assert not options or any(word in said for word in re.findall(r"[\w\[\]]{2,}|\d", line.partition(" ")[2])), err
    assert files(lab.folder) == before


OWN_MODULES = {
    "mine": """from diffusion_lab.diffusion import LinearSchedule
class Gentle(LinearSchedule):
    def alpha_bar(self):
        return undefined_name
""",
    "broken": "def f(:",
    "imports": "import nomodule",
}
# Mistakes of somebody who has not read the code: what is typed -> words of the one sentence.
TYPED = {
    "train +lr=0.1": "did you mean optimizer.lr?",
    "train lr=0.1": "did you mean optimizer.lr?",
    "train +batch_size=8": "data.batch_size",
    "train batch_size=8": "data.batch_size",
    "train ckpt_path=last.ckpt": "the same command resumes",
    "train +ckpt_path=last.ckpt": "init_from=FOLDER",
    "train +a.b.c.d=1": "there is no option 'a.b.c.d'",
    "train +optimzer.lr=0.5": "did you mean optimizer.lr?",
    "train optimzer.lr=0.5": "did you mean optimizer.lr?",
    "train -m +lr=0.1,0.9 seed=1,2": "did you mean optimizer.lr?",
    "train -m lr=0.1,0.9 seed=1,2": "did you mean optimizer.lr?",
    "train epochs=3": "there is no option 'epochs'",
    "train sampler.eta=0.5": "there is no option 'sampler.eta' with your choices: it is one of sampler=ddim",
    "train objective=flow_map timesteps=loss_aware": "flow_map sets timesteps.real, which timesteps=loss_aware does not have",
    "train -m objective=flow_map timesteps=loss_aware seed=1,2": "flow_map sets timesteps.real, which timesteps=loss_aware does",
    "train objective=flow_map timesteps=loss_aware timesteps.real=true": "it is one of timesteps=log_normal",
    "train sampler=strided sampler/spacing=all sampler.spacing.num_steps=3": "it is one of sampler/spacing=even",
    "train objective/residual=lagrangian": "with your choices: it is one of objective=flow_map",
    "train max_steps=20": "did you mean trainer.max_steps?",
    "train --max_steps 20": "such as trainer.max_steps=…",
    "train --max-steps=20": "such as trainer.max_steps=…",
    "train --lr 0.1": "such as optimizer.lr=…",
    "train -x": "there is no flag -x",
    "train \u2013m seed=1,2": "contains a typographic dash",
    "train \u2014cfg job": "contains a typographic dash",
    "train optimizer.lr=\u22120.1": "contains a typographic dash",
    "train schedule": "cannot read 'schedule'",
    "train schedule linear": "cannot read 'schedule'",
    "train trainer.max_steps = 3": "trainer.max_steps",
    "train seed=1,2": "seed=1,2: several values need -m (diffusion-lab train -m …)",
    "train optimizer.lr=0,1": "optimizer.lr=0,1: several values need -m",
    "train experiment=a,b": "experiment=a,b: several values need -m",
    "train +schedule=cosine": "write schedule=cosine, without +",
    "train ++schedule=lineal": "write schedule=lineal, without +",
    "train -m seed=1,2 dry_run=true": "did you mean hydra.sweeper.dry_run?",
    "train -m seed=1,2 hydra.sweep.dir=x": "hydra.sweep.dir=x has no effect with this sweeper",
    "train -m hydra.sweeper.params.seed=1,2": "write seed=1,2",
    "train -m seed=1,2 hydra.sweeper.dry_rum=true": "did you mean hydra.sweeper.dry_run?",
    "train --config-name foo": "Remove --config-name",
    "train --config-dir file.txt": "--config-dir file.txt: this is not a folder",
    "train seed=": "is empty",
    "train network=foo": "diffusion/28x28",
    "train schedule=cosin": "did you mean cosine?",
    "train data=foo": "data=foo: there is no such choice; choose one of arrays, celeba, ",
    "train network=32x32": ", diffusion/small; did you mean diffusion/32x32?",
    "train model=gan network=foo": "choose one of gan/28x28, ",
    "train network=diffusion/foo": "network=diffusion/foo: there is no such choice; choose one of 28x28, ",
    "train network=diffusion/dit network.width=100": "network.width=100 must be a multiple of 2·network.num_heads=6",
    "train network=diffusion/jit network.qk_nrm=true": "did you mean network.qk_norm?",
    "train model=flow network=diffusion/jit": "choose parts of one family",
    "train schedule=3": "takes the name of a choice",
    "train model=ddpm": "diffusion, flow, gan",
    "train data=mnist_fashion": "fashion_mnist",
    "train trainer.max_steps=-5": "trainer.max_steps=-5: set 1 or more, or trainer.max_time",
    "train seed=-1": "train: seed=-1 must",
    "train schedule.num_timesteps=-10": "train: schedule.num_timesteps=-10 must",
    "train data.batch_size=-8": "batch_size",
    "train data.batch_size=0": "batch_size",
    "train data.batch_size=many": "must be a valid integer",
    "train trainer.max_steps=1e3": "must be a valid integer",
    "train network.channel_multipliers=3": "must be a list",
    "train data=image_folder data.root=file.txt": "file.txt",
    "train data=arrays data.train=folder": "folder",
    "train init_from=file.txt": "init_from=file.txt is a file",
    "train init_from=nowhere": "init_from=nowhere does not exist",
    "train guidance=classifier_free": "train: guidance ClassifierFree",
    "train metrics=fid": "did you mean frechet_distance?",
    "train outputs=file.txt": "outputs=file.txt is a file",
    "sample model_dir=file.txt": "file.txt",
    "sample model_dir=folder": "folder",
    "sample num_image=3": "did you mean num_images?",
    "sample network.dropout=0.1": "network",
    "sample --num_images 3": "such as num_images=…",
    "sample +num_workers=3": "there is no option 'num_workers'",
    "sample +data.num_worker=3": "there is no option 'data.num_worker'",
    "evaluate num_images=4": "did you mean evaluation.num_samples?",
    "evaluate sampler.num_steps=3": "did you mean sampler.spacing.num_steps?",
    "evaluate schedule=linear": "chosen in training",
    "report runs=folder": "folder",
    "train schedule._target_=diffusion_lab.diffusion.LinearShedule": (
        "schedule._target_=diffusion_lab.diffusion.LinearShedule: diffusion_lab.diffusion has no LinearShedule; "
        "did you mean LinearSchedule?"
    ),
    "train schedule._target_=mine.Gentl": "mine has no Gentl; did you mean Gentle?",
    "train schedule=linear schedule._target_=mine.Gentle": "mine.py, line 4: NameError: name 'undefined_name' is not defined",
    "train schedule._target_=broken.Gentle": "schedule._target_=broken.Gentle: broken.py, line 1: invalid syntax",
    "train schedule._target_=imports.Gentle": "imports.py, line 1: ModuleNotFoundError: No module named 'nomodule'",
    "train +metrics.mine._target_=nomodule.Mine": "metrics.mine._target_=nomodule.Mine: there is no module nomodule",
    "train +callbacks.a._target_=lightning.pytorch.callbacks.EarlyStoping": "did you mean EarlyStopping?",
    "train +callbacks.a._target_=lightning.pytorch.callbacks.EarlyStopping": "set +callbacks.a.monitor=…",
    "status sweep=nowhere": "nowhere",
}


@pytest.mark.parametrize("line", TYPED)
def test_a_mistake_is_one_clear_sentence(lab, line):
    (lab.folder / "folder").mkdir()
    (lab.folder / "file.txt").write_text("mine")
    for module, code in OWN_MODULES.items():
        (lab.folder / f"{module}.py").write_text(code)
    command, *options = line.split()
    if command in ("evaluate", "sample"):
        lab.given("train", *TINY, *STRIDED)
    lab.refused(command, *options, said=TYPED[line])


@pytest.mark.parametrize("line", ["train network.base_channels=100000000", "sample num_images=1000000000000000000"])
def test_absurd_sizes_are_out_of_memory(lab, line):
    command, option = line.split()
    lab.given("train", *TINY, *STRIDED)
    lab.refused(command, *([*TINY, *STRIDED] if command == "train" else []), option, said="out of memory")


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
    lab.given("train", *TINY, *STRIDED, "outputs=outputs/debug")
    lab.refused(command, said="or set outputs=outputs/debug")


def test_a_report_on_scores_without_a_sweep_names_them(lab):
    lab.given("train", *TINY, *STRIDED)
    lab.refused("report", said="or name the scores with runs=outputs/runs")


def test_a_real_process_ends_with_the_sentence_and_a_code(process):
    done = process("train", "schedule=cosin")
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.fullmatch(r"diffusion-lab train: schedule=cosin: .*; did you mean cosine\?\n", done.stderr)
    done = process("trian")
    assert done.returncode == 2
    assert done.stderr.endswith("did you mean train?\n")
    assert files(process.folder) == []


@pytest.mark.thorough
def test_streams_may_be_closed(tmp_path):
    command = f"{Path(sys.executable).parent / 'diffusion-lab'} status --help <&- >&-"
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_an_error_of_ours_keeps_its_traceback(lab, monkeypatch):
    from diffusion_lab.commands import train

    def broken(cfg):
        raise KeyError("a bug")

    monkeypatch.setattr(train, "run", broken)
    with pytest.raises(KeyError, match="a bug"):
        lab("train")


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("trainer.max_step=3", "trainer.max_steps"),
        ("shedule=linear", "schedule"),
        ("network=diffusion/8x9", "8x8"),
    ],
)
def test_a_misspelling_is_told_what_was_meant(lab, wrong, meant):
    lab.refused("train", wrong, said=f"did you mean {meant}?")


def _missing():
    raise PackageNotFoundError


@pytest.mark.parametrize(
    ("module", "extra", "line"),
    [
        ("gradio", "demo", "demo"),
        ("submitit", "slurm", "train -m hydra/launcher=slurm"),
        ("submitit", "slurm", "train -m hydra/launcher=local hydra/sweeper=basic"),
    ],
)
def test_without_an_extra_one_sentence_names_it(lab, monkeypatch, module, extra, line):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(versions, "version", lambda name: _missing() if name.startswith(module) else "1")
    options = [*TINY, *STRIDED] if line.startswith("train") else []
    lab.refused(*line.split(), *options, said=f"pip install 'diffusion-lab[{extra}]'")
