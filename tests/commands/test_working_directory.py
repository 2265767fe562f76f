"""The working directory may be a folder from somebody else: only what the user names runs or counts."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from diffusion_lab import load
from diffusion_lab.commands import main
from diffusion_lab.config.working_directory import typed_modules
from diffusion_lab.store.places import is_in_outputs

from .conftest import STRIDED, TINY

HARM = "from pathlib import Path\nPath(__file__).with_name('harm').touch()\n"
LOCAL = "conf/local/default.yaml"
PYTHON = [sys.executable, "-m", "diffusion_lab"]


@pytest.fixture
def write(lab):
    def write(name, text=HARM):
        file = lab.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    return write


def harmed(folder: Path) -> bool:
    return any(folder.rglob("harm"))


@pytest.mark.parametrize(
    ("as_module", "command"), [(False, "train schedule=none"), pytest.param(True, "doctor", marks=pytest.mark.thorough)]
)
def test_nothing_here_runs_by_itself(process, as_module, command):
    """Plugins of Hydra, and files called like packages that others try to import."""
    names = ("pynvml.py", "pytz.py", "submitit.py", "json.py", "csv.py", "typing.py", "__future__.py", "omegaconf.py")
    for name in ("hydra_plugins/evil/__init__.py", "hydra_plugins/evil.py", *names):
        file = process.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(HARM)
    if as_module:
        subprocess.run([*PYTHON, *command.split()], cwd=process.folder, capture_output=True, check=False)
    else:
        process(*command.split())
    assert not harmed(process.folder)


@pytest.mark.parametrize("option", ["schedule=mine", "schedule._target_=mine.Mine", "+callbacks.own._target_=mine.Own"])
def test_what_the_user_types_is_found_here(lab, write, option):
    write(
        "mine.py",
        "import helped\nfrom lightning import Callback\nfrom diffusion_lab.diffusion import CosineSchedule as Mine\n"
        "class Own(Callback):\n    def on_fit_start(self, *_):\n        helped.late()\n",
    )
    write("helped.py", "def late():\n    import later\n")
    write("later.py", "")
    write("conf/schedule/mine.yaml", "defaults: [cosine]\n_target_: mine.Mine\n")
    lab.done("train", *TINY, *STRIDED, option, "score=false")


@pytest.mark.parametrize(
    "text",
    [
        "optimizer: {_target_: harmful.X}\n",
        "hydra: {callbacks: {evil: {_target_: harmful.X}}}\n",
        "defaults:\n  - override /optimizer: mine\n",
        "defaults:\n  - override /hydra/launcher: slurm\n",
        "outputs: ${oc.create:{_target_:harmful.X}}\n",
        "'optimizer._target_': harmful.X\n",
    ],
)
def test_conf_local_holds_plain_options(lab, write, text):
    write(LOCAL, text)
    write("harmful.py")
    write("conf/optimizer/mine.yaml", "_target_: harmful.X\n")
    write("conf/evil/evil.yaml", "evil: {_target_: harmful.X}\n")
    lab.refused("train", said=LOCAL)
    assert sorted(os.listdir(lab.folder)) == ["conf", "harmful.py"]


@pytest.mark.parametrize(
    "option", ["sweep=first", "~sweep=first", "sweep@hydra.callbacks=first", "trainer.max_steps=2"]
)
def test_what_is_no_choice_finds_no_yaml_here(lab, write, option):
    for name in ("sweep/first", "trainer.max_steps/2"):
        write(f"conf/{name}.yaml", "_target_: harmful.X\n")
    assert "harmful" not in typed_modules([option])


def test_other_programs_of_hydra_search_nothing_of_ours(lab, write):
    write("conf/schedule/mine.yaml", "defaults: [cosine]\nlog_snr_max: 3.0\n")
    code, out, err = lab("train", "schedule=mine", "--cfg", "job")
    assert code == 0, err
    assert OmegaConf.create(out).schedule.log_snr_max == 3.0
    plugins = Plugins.instance().discover(SearchPathPlugin)
    assert not [plugin for plugin in plugins if plugin.__module__.startswith("diffusion_lab")]


def test_a_choice_called_trained_is_refused(lab, write):
    """In evaluate and sample, `trained` is the choice that the model was trained with."""
    lab.given("train", *TINY, *STRIDED)
    write("conf/sampler/trained.yaml", "defaults: [ddim]\n")
    lab.refused("sample", "sampler=trained", said="sampler/trained.yaml")


def test_a_choice_of_a_plugin_is_not_looked_for_here(lab, write):
    write("conf/hydra/sweeper/optuna.yaml", "# @package hydra.callbacks\nevil: {_target_: harmful.X}\n")
    write("harmful.py")
    lab("train", "-m", *TINY, *STRIDED, "hydra/sweeper=optuna", "seed=1,2")
    assert not harmed(lab.folder)


def test_conf_local_may_read_the_environment_and_options(lab, write, monkeypatch):
    monkeypatch.setenv("LAB_SCRATCH", "there")
    write(LOCAL, "outputs: ${oc.env:LAB_SCRATCH}/out\ntags: ['${seed}', 1e-3]\n")
    out = lab.done("train", "--cfg", "job", "--resolve")
    assert OmegaConf.create(out).outputs == "there/out"


NAMES = ("DIFFUSION_LAB_TARGETS", "PYTHONPATH", "LD_PRELOAD", "HYDRA_FULL_ERROR", "CXX", "WANDB_BASE_URL", "MPLBACKEND")


def test_dotenv_sets_credentials_and_what_is_read(lab, write, monkeypatch):
    for name in (*NAMES[:3], *NAMES[4:], "LAB_SCRATCH", "LAB_API_KEY"):
        monkeypatch.setenv(name, "before")
        monkeypatch.delenv(name)
    write(".env", "".join(f"{name}=harm\n" for name in (*NAMES, "LAB_SCRATCH", "LAB_API_KEY")))
    code, out, err = lab("train", "outputs='${oc.env:LAB_SCRATCH}'", "--cfg", "job", "--resolve")
    assert code == 0, err
    assert OmegaConf.create(out).outputs == "harm"
    assert os.environ["LAB_API_KEY"] == "harm"
    assert not {*NAMES} & {name for name, value in os.environ.items() if value == "harm"}
    assert err.count("\n") == 1
    assert all(name in err for name in NAMES if name != "HYDRA_FULL_ERROR")  # which `lab` sets


@pytest.mark.parametrize("place", ["models/m/deeper", "", "sweeps/s"])
def test_in_outputs_nothing_is_read(lab, write, monkeypatch, trained_model, place):
    outputs = lab.folder / "theirs"
    shutil.copytree(trained_model("diffusion_conditional"), outputs / "models" / "m")
    folder = outputs / place
    folder.mkdir(parents=True, exist_ok=True)
    assert is_in_outputs(folder)
    assert not is_in_outputs(lab.folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LAB_TOKEN", "x")
    monkeypatch.delenv("LAB_TOKEN")
    here = str(folder.relative_to(lab.folder))
    write(f"{here}/.env", "LAB_TOKEN=harm\n")
    write(f"{here}/conf/local/default.yaml", "outputs: harm\n")
    write(f"{here}/conf/schedule/mine.yaml", "_target_: harmful.X\n")
    write(f"{here}/harmful.py")
    out = lab.done("train", "--cfg", "job")
    assert OmegaConf.create(out).outputs == "outputs"
    assert "LAB_TOKEN" not in os.environ
    for option in ("schedule=mine", "schedule._target_=harmful.X"):
        assert lab("train", option)[0] == 1
    assert not harmed(lab.folder)


@pytest.mark.thorough
def test_ranks_and_jobs_find_what_the_user_typed(process):
    """The yaml and the module of the working directory, in two ranks, and as jobs of a queue."""
    (process.folder / "conf/schedule").mkdir(parents=True)
    (process.folder / "conf/schedule/mine.yaml").write_text("defaults: [cosine]\n_target_: mine.Mine\n")
    (process.folder / "mine.py").write_text("from helped import CosineSchedule as Mine\n")
    (process.folder / "helped.py").write_text("from diffusion_lab.diffusion import CosineSchedule\n")
    (process.folder / "pytz.py").write_text(HARM)
    options = [*TINY, *STRIDED, "schedule=mine", "score=false"]
    for more in (["trainer.devices=2", "trainer.accelerator=cpu"], ["-m", "hydra/launcher=local", "seed=2"]):
        done = process("train", *more, *options)
        assert done.returncode == 0, done.stderr + done.stdout
    assert len(list((process.folder / "outputs" / "models").glob("*/training.json"))) == 2
    assert not harmed(process.folder)


def test_options_before_the_command(lab, write, monkeypatch, capfd):
    write("train/schedule/mine.yaml", "defaults: [cosine]\nlog_snr_max: 3.0\n")
    monkeypatch.setattr(
        sys, "argv", ["diffusion-lab", "--config-dir", "train", "train", "schedule=mine", "--cfg", "job"]
    )
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    with pytest.raises(SystemExit) as end:
        main.main()
    assert end.value.code == 0
    assert OmegaConf.create(capfd.readouterr().out).schedule.log_snr_max == 3.0


def test_python_finds_the_same_and_leaves_hydra_as_it_was(lab, write, trained_model):
    shutil.copytree(trained_model("diffusion_conditional"), lab.folder / "m")
    write(LOCAL, "outputs: there\n")
    write("conf/sampler/mine.yaml", "defaults: [ddim]\neta: 0.5\nspacing: {num_steps: 3}\n")
    model = load("m")
    (lab.folder / "own").mkdir()
    (lab.folder / "own" / "app.yaml").write_text("defaults: [_self_, optional local: default]\nx: 1\n")
    with initialize_config_dir(str(lab.folder / "own"), version_base="1.3"):
        model.sample(1, sampler="mine")
        assert compose("app") == {"x": 1}
    assert (model.module.nfe, model.module.sampler.eta) == (3, 0.5)


def test_settings_of_a_drawing_style_here_are_left_out(tmp_path):
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nbackend: pdf\n")
    code = "with importing(frozenset()): import matplotlib\nprint(matplotlib.rcParams['text.usetex'], matplotlib.get_backend())"
    code = f"from diffusion_lab.config.working_directory import importing\n{code}"
    call = [sys.executable, "-P", "-c", code]
    said = subprocess.run(
        call, cwd=tmp_path, env=os.environ | {"MPLBACKEND": "svg"}, capture_output=True, text=True, timeout=60
    )
    assert said.stdout.split() == ["False", "svg"], said.stderr


def test_a_report_reads_no_drawing_style_here(tmp_path):
    """Its module draws, so it imports matplotlib before the command has any option."""
    os.mkfifo(tmp_path / "matplotlibrc")
    call = [sys.executable, "-P", "-m", "diffusion_lab", "report"]
    said = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (said.returncode, "there is no sweep" in said.stderr) == (1, True), said.stderr


def test_without_a_command_conf_local_counts_too(lab, write, monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["diffusion-lab"])
    write(LOCAL, "outputs: there\n")
    main.main()
    assert "no trained model in there" in capfd.readouterr().out
    write(LOCAL, "outputs: ${oc.env:NOT_THERE}\n")
    with pytest.raises(SystemExit, match=r"conf/local/default\.yaml: outputs cannot be resolved"):
        main.main()


def test_wandb_settings_here_name_no_server(tmp_path):
    pytest.importorskip("wandb")
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "settings").write_text("[default]\nbase_url = http://harm.invalid\n")
    code = "import wandb; WeightsAndBiases('p', None); print(wandb.setup().settings.base_url)"
    call = [sys.executable, "-P", "-c", f"from diffusion_lab.training.trackers import WeightsAndBiases; {code}"]
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"} | {
        "WANDB_MODE": "offline"
    }
    said = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert said.stdout.startswith("http"), said.stderr
    assert "harm" not in said.stdout
