"""The house stands as drawn: a file imports only from packages above its own, and the theory reaches outside nothing but torch."""

import ast
import re
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "diffusion_lab"
ORDER = [
    *("versions", "conf_dir", "terminal", "store"),
    *("diffusion", "sampling", "analysis", "conditions", "networks", "report"),
    *("data", "models", "families", "training", "interop"),
    *("metrics", "sweeps", "config", "commands"),
]
# Files of sweeps that only compute, from scores; the report reads them, so they stand above it.
RULES = ("diffusion_lab.sweeps.stopping", "diffusion_lab.sweeps.decide")
# torch, its type annotations, and modules of the standard library that define classes and functions.
THEORY_IMPORTS = {"torch", "jaxtyping", "math", "typing", "dataclasses", "functools", "abc"}
THEORY_IMPORTS |= {"collections", "collections.abc"}
FILES = sorted(PACKAGE.rglob("*.py"))
THEORY = [
    *(path for room in ("diffusion", "sampling", "analysis") for path in sorted((PACKAGE / room).glob("[a-z]*.py"))),
    *(
        PACKAGE / "families" / name
        for name in ("gan/adversarial.py", "vae/elbo.py", "vae/likelihoods.py", "flow/couplings.py")
    ),
]


def imported(path: Path) -> list[str]:
    """Absolute names of all modules that a file imports, relative imports resolved."""
    package = list(path.relative_to(ROOT).with_suffix("").parts[:-1])
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = [*base, *(node.module.split(".") if node.module else [])]
            of_package = not node.module or node.module == PACKAGE.name
            names += [".".join([*module, alias.name]) for alias in node.names] if of_package else [".".join(module)]
    return names


def layer(module: str) -> int | None:
    if module in RULES:
        return ORDER.index("store")
    parts = module.split(".")
    return ORDER.index(parts[1]) if parts[0] == "diffusion_lab" and len(parts) > 1 and parts[1] in ORDER else None


def wrong_way(path: Path) -> list[str]:
    own = layer(".".join(path.relative_to(ROOT).with_suffix("").parts))
    above_all = {PACKAGE.name, "hydra_plugins"}  # the package's own face, and the doors that Hydra finds
    return [
        module
        for module in imported(path)
        if own is not None
        and (layer(module) > own if layer(module) is not None else module.partition(".")[0] in above_all)
    ]


def test_imports_point_up():
    assert {path: wrong for path in FILES if (wrong := wrong_way(path))} == {}


@pytest.mark.parametrize("path", THEORY, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_the_theory_imports_torch_and_theory(path):
    outside = {m for m in imported(path) if not m.startswith(("diffusion_lab.", "torch.nn"))}
    assert outside <= THEORY_IMPORTS
    inside = {m.split(".")[1] for m in imported(path) if m.startswith("diffusion_lab.")}
    assert inside <= {"diffusion", "sampling", "analysis", "families"}


@pytest.mark.parametrize(
    ("room", "some"),
    [("diffusion", ["schedules", "chain", "bound"]), ("models", ["generator", "trainable", "diffusion"])],
)
def test_no_circle_of_imports_runs_through(room, some):
    """Imports for type checking count too."""
    prefix = f"diffusion_lab.{room}."
    graph = {
        path.stem: {m.removeprefix(prefix) for m in imported(path) if m.startswith(prefix)}
        for path in (PACKAGE / room).glob("[a-z]*.py")
    }
    order = list(TopologicalSorter(graph).static_order())  # CycleError
    assert sorted(some, key=order.index) == some


def test_every_package_has_its_place():
    places = {p.stem for p in PACKAGE.iterdir() if p.is_dir() or p.suffix == ".py"}
    assert places - {"__pycache__", "__init__", "__main__", "conf"} <= set(ORDER)


MAPPED = [
    "diffusion",
    "sampling",
    "analysis",
    "models",
    "report",
    "sweeps",
    "families",
    "conditions",
    "networks",
    "data",
    "training",
    "metrics",
    "interop",
    "config",
    "commands",
]


@pytest.mark.parametrize("room", MAPPED)
def test_the_docstring_of_a_package_is_its_map(room):
    """Every line names a file that is there, or features/. A new file of a contributor needs no line."""
    text = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text()), clean=False)
    named = re.findall(r"^([\w/]+)   ", text, flags=re.MULTILINE)
    files = [path.relative_to(PACKAGE / room) for path in (PACKAGE / room).rglob("*.py") if path.stem != "__init__"]
    there = {"features/" if path.parts[0] == "features" else path.with_suffix("").as_posix() for path in files}
    assert set(named) <= there
    assert len(named) == len({*named}) > 0


def test_only_two_packages_see_a_config_and_modules_stay_small():
    for path in FILES:
        text = path.read_text()
        if not {"commands", "config"} & {*path.parts}:
            assert not re.search(r"(?<!\.)\b(cfg|omegaconf|hydra(?!-core|/|\.launcher))\b", text), f"a config in {path}"
        assert len(text.splitlines()) <= 500, path
        assert path.stem not in {"utils", "util", "helpers", "common", "misc"}


def test_hydra_is_used_by_its_public_doors():
    texts = {path.name: path.read_text() for path in (*FILES, *(ROOT / "hydra_plugins").rglob("*.py"))}
    assert [name for name, text in texts.items() if "hydra._internal" in text] == []
    assert [name for name, text in texts.items() if re.search(r"^\s*sys\.argv(\[.*\])? = ", text, re.MULTILINE)] == [
        "app.py"
    ]


def test_one_file_reads_the_error_texts_of_hydra():
    said = re.compile("Could not override|full_key: |Error locating target|Interpolation key|Cannot convert")
    readers = [
        path.name for path in FILES if re.search(r"\bhydra\b", path.read_text()) and said.search(path.read_text())
    ]
    assert readers == ["mistakes.py"]


@pytest.mark.parametrize(
    "path",
    [p for room in ("sweeps", "report") for p in sorted((PACKAGE / room).glob("*.py")) if p.name != "drawing.py"],
    ids=lambda p: p.name,
)
def test_running_and_showing_need_no_torch_and_nothing_of_each_other(path):
    modules = imported(path)
    assert not {module.split(".")[0] for module in modules} & {"torch", "torchvision", "lightning"}
    (other,) = {"sweeps", "report"} - {path.parent.name}
    of_the_other = [module for module in modules if f"{module}.".startswith(f"diffusion_lab.{other}.")]
    assert {*of_the_other} <= {*RULES}


def test_the_layout_of_outputs_needs_no_torch():
    outside = {m.split(".")[0] for path in (PACKAGE / "store").glob("*.py") for m in imported(path)}
    assert outside <= set(sys.stdlib_module_names) | {"diffusion_lab", "filelock", "pydantic", "safetensors", "yaml"}


# What lies in outputs/: names of files, wherever they stand; names of folders, where a path is made of them.
LAYOUT_FILES = {"config.yaml", "choices.json", "training.json", "accuracy.json", "wandb_id", "sweep.json", "log.txt"}
LAYOUT_FILES |= {"metrics.csv", "metrics.json", "interpolation.png", "reconstructions.png", "conditions.png"}
LAYOUT_FOLDERS = {"models", "runs", "sweeps", "cache", "samples", "logs", "jobs", "code", "trash"}
SHIPPED = PACKAGE / "metrics" / "features" / "classifiers.py"  # weights that lie in the package
DIFFUSERS = {PACKAGE / "interop" / name for name in ("to_diffusers.py", "from_diffusers.py")}  # the layout of others


def layout_in(path: Path) -> list[str]:
    """What a file says of the layout of outputs/."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = node.value.rpartition("/")[2]
            if name in LAYOUT_FILES or re.search(r"\.(safetensors|ckpt)$", node.value):
                found.append(node.value)
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and isinstance(node.right, ast.Constant):
            found += {node.right.value} & LAYOUT_FOLDERS
    return found


def test_only_the_store_knows_the_layout_of_outputs():
    elsewhere = {*FILES, *(ROOT / "hydra_plugins").rglob("*.py")} - {SHIPPED, *DIFFUSERS}
    found = {path: layout for path in elsewhere if (layout := layout_in(path)) and path.parent != PACKAGE / "store"}
    assert found == {}
