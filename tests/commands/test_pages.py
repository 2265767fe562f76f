"""Every command on every page: composed with its options, and executed in the order of its page, on tiny models and stand-in data.

Pages are found by their place, so a new one is tested too. COMPOSED lists what is not executed, and why. The Python of the
tutorials is executed with their commands.
"""

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from string import Template

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from PIL import Image

from diffusion_lab.commands.main import COMMANDS
from diffusion_lab.conf_dir import CONF
from diffusion_lab.config.overrides import in_full

from ..data.small_sets import write_emoji, write_idx
from .conftest import STRIDED, TINY

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
# tests/test_contributing.py and tests/commands/test_own_settings.py execute these: they write files of their own first.
ELSEWHERE = {DOCS / "own.md", *(DOCS / "extend").glob("*.md")} - {DOCS / "extend" / "maintaining.md"}
PAGES = sorted({*DOCS.rglob("*.md"), *ROOT.glob("*.md"), ROOT / "benchmarks" / "README.md"} - ELSEWHERE)
# Pages whose commands are composed only: they are long measurements of experiments, each of which test_train.py trains, and
# what a release needs.
NOT_EXECUTED = {
    DOCS / "results.md",
    DOCS / "gallery.md",
    ROOT / "benchmarks" / "README.md",
    DOCS / "extend/maintaining.md",
}
# Patterns of commands that are only composed, with the reason.
COMPOSED = {
    "…|MODEL|\\$": "a name that only the reader has",
    "hydra/launcher=|trainer.devices=|accelerator=gpu|num_nodes=": "other devices",
    "data.download=": "a network",
    "logger=(wandb|mlflow)": "an account, a folder of W&B's, another package",
    "^(demo|dashboard|import)\\b": "a page that stays open, an account, a checkpoint of another program",
    "inception|VIRTUAL_|data=imagenet64|data=hf_dataset": "files of others",
    "--help": "tests/commands/test_help.py",
    "hparams_search=": "twenty trainings",
    "ema_rel_": "averages of a whole training",
}
_STEP = re.compile(
    r"^```(python|bash)\n(.*?)^```$|^ {4}(?:[A-Z_]+=\S+ )?((?:diffusion-lab|python|pip|mv |scripts/|\.ci/|[a-z]+=[\"'])[^\n]*)$",
    re.MULTILINE | re.DOTALL,
)

# Small data; and metrics that two steps of training and few samples allow: images that a regression leaves black have no spectrum.
FEW = {
    r"^(?!.*data=digits).*(data=(fashion_)?mnist|experiment=\w*fashion)": ["data.root=fashion"],
    "data=emoji": ["data.root=emoji"],
    "regression_fashion": ["metrics=[network_evaluations,reconstruction]"],
    r"evaluation\.at=": ["evaluation.at=[end]"],
    r"sweep\.decide": ["sweep.decide.most_seeds=3"],
    "experiment=(likelihood|ddpm_digits(?!,))": ["schedule.num_timesteps=60"],
    "experiment=improved_ddpm": ["schedule.num_timesteps=24"],
    "format=program": ["sampler.spacing.num_steps=2"],
    "data=image_folder(?!.*image_size)": ["data.image_size=8"],
    "num_clusters=30": ["condition.clusters.num_clusters=4"],
    "experiment=(series|volume|fields)": ["data.num_train=60", "data.num_test=20"],
    "experiment=volume": [
        "data.side=8",
        "data.radii=[1,3]",
        "metrics=network_evaluations",
        "network.channel_multipliers=[1]",
        "sampler.spacing.num_steps=3",
    ],
    "superres_fashion|regression_fashion": [
        "metrics.reconstruction.num_images=8",
        "metrics.reconstruction.num_draws=2",
    ],
    "diagnose": ["metrics.distance_by_log_snr.num_images=16", "metrics.error_by_log_snr.num_images=8"],
    "schedule_advice|bits_by_steps": ["evaluation.statistics_images=8"],
    "experiment=(superres|vector|improved_ddpm)_fashion(?!,)": ["sampler.spacing.num_steps=3"],
    "bits_by_steps": ["metrics.bits_by_steps.num_images=8"],
    "bits_by_steps|sampler=ddpm(?!,)": ["schedule.num_timesteps=30"],
    "data=gaussian_field": ["data.num_train=60", "data.num_test=20"],
}
NETWORK = [option for option in TINY if option.startswith("network.")]
SHORT = [option for option in TINY if not option.startswith(("metrics.", "schedule.", "features=", "network."))]
# Where a page does not choose the metrics itself, and neither does FEW.
BRIEF = [
    "metrics.bits_per_dim.num_images=4",
    "metrics.bits_per_dim.max_terms=8",
    "metrics.kernel_distance.num_subsets=2",
]
OWN_METRICS = re.compile(r"metrics=|regression_fashion|experiment=volume")
OWN_NETWORKS = re.compile(r"model=|network=|data=two_moons|experiment=(vdm|edm)")
OWN_SAMPLERS = re.compile(r"model=|sampler|experiment=")


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def steps(page: Path) -> Iterator[tuple[str, list[str]]]:
    """(Python code, []), or ("", the words of a command), in the order of a page; continued lines are joined, and the variables
    that a line of its own assigns (`name="value"`) are put in."""
    variables: dict[str, str] = {}
    for found in _STEP.finditer(page.read_text().replace("\\\n", "")):
        language, block, line = found.groups()
        if language == "python":
            yield block, []
            continue
        for command in (line,) if line else block.splitlines():
            command = Template(command.rpartition(" && ")[2]).safe_substitute(variables)
            words = shlex.split(command, comments=True)
            if words and re.match(r"[a-z]+=", words[0]):
                variables.update(word.split("=", 1) for word in words)
            elif words:
                yield (words[2], []) if words[:2] == ["python", "-c"] else ("", words)


def commands(page: Path) -> list[list[str]]:
    """The words of each command of the lab, without its name: those in blocks and those in sentences."""
    inline = re.findall(r"`diffusion-lab ([^`\n]+)`", page.read_text())
    return [
        *(words[1:] for _, words in steps(page) if words[:1] == ["diffusion-lab"]),
        *map(shlex.split, inline),
    ]


def executed(words: list[str]) -> bool:
    """Whether a command is executed, not only composed."""
    return not any(re.search(pattern, " ".join(words)) for pattern in COMPOSED)


def last_cell(option: str) -> str:
    """a=1,2 -> a=2; what stands in brackets is one value."""
    name, sign, value = option.partition("=")
    return name + sign + (re.findall(r"(?:\[[^\]]*\]|\{[^}]*\}|\([^)]*\)|[^,])+", value) or [""])[-1]


def shrunk(command: str, *options: str, swept: int) -> list[str]:
    """With a tiny network, two steps and eight samples; of the first options that a sweep varies, the first and the last value.

    swept: how many keep two values; of the others the last is left.
    """
    line = " ".join(options)
    less = {
        "evaluate": ["evaluation.num_samples=8"],
        "features": ["num_steps=2", "batch_size=8"],
        "sample": ["num_images=10"],
    }.get(command, [])
    if command == "train":
        less = [*([] if OWN_NETWORKS.search(line) else NETWORK), *SHORT, *([] if OWN_METRICS.search(line) else BRIEF)]
        less += [] if OWN_SAMPLERS.search(line) else STRIDED
    if command != "sample":
        less = [*less, *(option for pattern, more in FEW.items() if re.search(pattern, line) for option in more)]
    fewer = []
    for option in options:
        ends = re.sub(r"^([^=\[{]+=[^,\[{]+),(?:.*,)?([^,]+)$", r"\1,\2", option)
        fewer.append(ends if swept > 0 else last_cell(ends))
        swept -= ends != last_cell(ends)
    return [command, *fewer, *less]


def write_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that the pages name, in place of the reader's."""
    write_idx(folder / "fashion", monkeypatch)
    write_emoji(folder / "emoji", monkeypatch)
    random = np.random.default_rng(0)
    rows = ["file,kind,age,height"]
    for i in range(24):
        file = folder / "FOLDER" / ("cats", "dogs")[i % 2] / f"{i:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(256, size=(20, 24, 3), dtype=np.uint8)).save(file)
        rows.append(f"{file.parent.name}/{file.name},{'ab'[i % 2]},{i},{i / 2}")
    (folder / "labels.csv").write_text("\n".join(rows))
    levels = random.integers(256, size=(24, 8, 8), dtype=np.uint8)
    labels = np.arange(24) % 4
    arrays = {
        "images": levels,
        "train": levels,
        "test": levels,
        "labels": labels,
        "vectors": random.normal(size=(24, 2)),
        "wanted_vectors": random.normal(size=(4, 2)),
        "fields": random.normal(size=(24, 1, 4, 4)),
        "wanted_fields": random.normal(size=(4, 1, 4, 4)),
        "weather": random.normal(size=(24, 1, 8, 8)),
        "points": random.normal(size=(24, 2)),
        "pulses": random.normal(size=(24, 2, 64)),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array.astype(np.float32) if array.dtype == np.float64 else array)
    np.savez(folder / "med.npz", train_images=levels, train_labels=labels)
    for name in ("published", "theirs"):
        np.savez(folder / f"{name}.npz", random.integers(256, size=(40, 28, 28, 1), dtype=np.uint8))
    Image.fromarray(np.repeat(np.uint8([[0, 255]]), 4, axis=1).repeat(8, axis=0)).save(folder / "mask.png")
    import h5py
    import zarr

    with h5py.File(folder / "run.h5", "w") as file:
        file["u"] = arrays["weather"][:, 0]
    zarr.save(str(folder / "series.zarr"), arrays["pulses"].astype(np.float32))


@pytest.mark.thorough
@pytest.mark.parametrize("page", [page for page in PAGES if page not in NOT_EXECUTED], ids=named)
def test_a_page_works_as_written(page, lab, monkeypatch):
    todo = [(code, words[1:]) for code, words in steps(page) if code or words[0] in ("diffusion-lab", "mv")]
    is_tutorial = page.parent.name == "tutorials"
    swept = 9 if is_tutorial else 1
    todo = [(code, words) for code, words in todo if (is_tutorial or "\n" not in code if code else executed(words))]
    if not todo:
        return
    write_files(lab.folder, monkeypatch)
    if todo[0][1][:1] not in (["train"], []):
        sweep = ["-m", "seed=1,2", "sampler=ddim,strided"] if todo[0][1][0] == "report" else []
        lab.given("train", *sweep, *NETWORK, *SHORT, *BRIEF, *STRIDED)
    namespace, wrong = {}, []
    for code, command in todo:
        if code:
            exec(code, namespace)
        elif len(command) == 2 and "*" in command[0]:  # mv outputs/models/NAME-* NAME
            (folder,) = lab.folder.glob(command[0])
            folder.rename(lab.folder / command[1])
        elif command:
            status, _, error = lab(*shrunk(*command, swept=swept))
            wrong += [f"diffusion-lab {shlex.join(command)}: {error}"] if status else []
    assert wrong == [], "\n".join(wrong)
    plt.close("all")
    for name in re.findall(r"`((?:outputs|samples|schedule)/[^` ]+)`", page.read_text()) if is_tutorial else ():
        assert list(lab.folder.glob(name.replace("…", "*"))), f"{name} was not written"


_PLAN = re.compile(
    r"^ {4}diffusion-lab (train -m [^\n]*dry_run=true[^\n]*)\n\n```text\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
PLANS = [
    pytest.param(*found, id=named(page))
    for page in PAGES
    for found in _PLAN.findall(page.read_text().replace("\\\n", ""))
]


@pytest.mark.thorough
@pytest.mark.parametrize(("command", "printed"), PLANS)
def test_a_plan_on_a_page_is_what_the_command_prints(command, printed, lab):
    """`…` stands for what is left out."""
    out = lab.done(*shlex.split(command))
    assert re.fullmatch(re.escape(printed.strip()).replace("…", ".*"), out.strip(), re.DOTALL), out


def options_of(name: str, options: list[str]) -> list[str]:
    """Those that compose: of a sweep, the last cell; without what only the reader knows, and what the model itself decides."""
    own = name != "train" and not any(option.startswith("guidance=") for option in options)
    options = [last_cell(o) for o in options if "=" in o and not re.match(r"[-[]", o) and "…" not in o]
    options = [option for option in options if not (own and option.startswith("guidance."))]
    return [in_full(option) for option in options] if name == "sample" else options


@pytest.mark.thorough
def test_every_command_on_a_page_composes():
    unlike = {tuple(words): named(page) for page in PAGES for words in commands(page)}
    composed, wrong = 0, []
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        for (name, *options), page in ((words or ("--help",), page) for words, page in unlike.items()):
            if name.startswith(("-", "…")) or {"--help", "--cfg"} & set(options):
                continue
            given = any(option.startswith("samples=") for option in options)
            try:
                assert name in COMMANDS, "there is no such command"
                compose("evaluate_samples" if given else name, options_of(name, options), return_hydra_config=True)
            except (HydraException, AssertionError) as error:
                wrong.append(f"{page}: diffusion-lab {name} {' '.join(options)}: {error}")
            composed += 1
    GlobalHydra.instance().clear()
    assert wrong == []
    assert composed > 100


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_other_programs_of_a_page_have_the_files_flags_and_extras_that_it_names(page):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for _, words in steps(page):
        line = " ".join(words)
        for wanted in re.findall(r"(?:diffusion-lab|\.)\[([\w,-]+)\]", line if words[:1] == ["pip"] else ""):
            assert set(wanted.split(",")) <= extras.keys(), line
        program = next((word for word in words[:3] if re.match(r"(benchmarks|scripts|\.ci)/", word)), None)
        if program is not None:
            text = (ROOT / program).read_text()
            flags = {word for word in words if word.startswith("--")}
            assert not [flag for flag in flags if flag not in text], line
