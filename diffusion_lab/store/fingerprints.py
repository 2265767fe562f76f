"""The fingerprint of a training: a digest of everything that shapes its weights, and of nothing else. Does not import torch.

It covers the training part of the resolved config, the data set's identity, and a digest of the code that trains, so the same
command finds its model again. Files are only read; nothing is imported.

The code consists of whole modules without docstrings: those of classes that the config names, those that every training uses, and
all that these import, at the top or in functions but not below `if TYPE_CHECKING`, within the lab's packages for training.
Code that only samples, scores, watches or displays is excluded, unless the config or a module of the user names it, so edits there
do not retrain. A score covers these packages, sampling and metrics. A name imported from a package of the lab leads to its defining
module, and the package's `__init__` does not count, so a new file changes nothing. In the user's packages `__init__` counts, with
all its imports, because they may register something. So do files in or below the folder of a user's module that the module
names, such as a table. Installed packages count by name only: their versions are recorded with the model, and another version does
not retrain. Modules named by strings (importlib) are not followed.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import re
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import yaml

from diffusion_lab.conf_dir import CONF
from diffusion_lab.store.option_names import canonical_json

LAB = __name__.partition(".")[0]
_FILE_NAME = re.compile(r"[\w-][\w ./-]{0,100}\.\w{1,20}")
_LARGE = 2**26  # bytes
_DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
_INSTALLED = {Path(sysconfig.get_path(key)) for key in ("stdlib", "platstdlib", "purelib", "platlib")}


@dataclass(frozen=True)
class Scope:
    """The code of the lab that counts: packages and modules in which imports are followed, and root modules.

    Whatever a config names or the user's code imports counts in any case.
    """

    places: frozenset[str] = frozenset()
    left_out: frozenset[str] = frozenset()
    roots: frozenset[str] = frozenset()

    def follows(self, source: str, target: str) -> bool:
        """Whether an import of one module by another counts."""
        parts = target.split(".")
        above = {".".join(parts[1:end]) for end in range(2, len(parts) + 1)}
        return not (is_lab(source) and is_lab(target)) or bool(above & self.places and not above & self.left_out)


# Options that may be chosen after training.
# fmt: off
SCORING_GROUPS = (
    "sampler", "guidance", "rounding", "start", "decoder", "bound", "sampling", "evaluation", "features", "metrics",
    "measured_variance",  # set by variance=analytic
)
SCORED_GROUPS = (*SCORING_GROUPS, "variance")  # variance only if it did not shape training
# Keys of the resolved config that do not shape the weights, with everything below them; all others do.
TRAINING_EXCLUDED = frozenset((
    *SCORING_GROUPS,
    # observed and kept during training
    "logger", "checkpoint", "progress", "snapshots",
    "trainer.enable_progress_bar", "trainer.enable_model_summary", "trainer.profiler", "trainer.detect_anomaly",
    "trainer.num_sanity_val_steps", "trainer.limit_val_batches", "trainer.inference_mode",
    # places of files: data sets and initial weights are identified by content
    "model_dir", "init_from", "init_weights",
    "outputs", "paths", "data.root", "data.path", "data.train", "data.test", "data.train_labels", "data.test_labels",
    "data.train_vectors", "data.test_vectors", "data.train_fields", "data.test_fields",
    "data.download",
    # choose files and validation images; the identity covers the remaining images
    "data.on_error", "data.max_pixels", "data.max_bytes", "data.validation",
    # options of the command
    "retrain", "rescore", "score", "objective_metric", "tags", "sweep",
    # machine and speed: randomness is keyed for the global batch, so these only change rounding
    "compile", "workers", "data.num_workers", "data.on_device",
    "trainer.accumulate_grad_batches", "network.activation_checkpointing",
    "trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.benchmark", "trainer.deterministic",
    "trainer.peak_flops",
))
# Packages and modules of the lab. Files, locks, observing callbacks and user interaction change no number.
_TRAINS = frozenset(("conditions", "data", "diffusion", "families", "models", "networks"))
_ONLY_AFTER_TRAINING = frozenset(("diffusion.starts", "models.generator", "models.diffusion_generator"))
_SCORES = _TRAINS | {"analysis", "sampling", "metrics", "store.measures"}


def _lab(*modules: str) -> frozenset[str]:
    return frozenset(f"{LAB}.{module}" for module in modules)


# The scored weights, and measurements made for them before sampling.
_LOADED = _lab(
    "training.profiles", "config.measured_variance", "config.loading", "config.weight_files"
)
TRAINING = Scope(_TRAINS, _ONLY_AFTER_TRAINING, _lab(
    "training.ema", "training.finite", "training.profiles", "training.snapshots", "training.trainer",
    "commands.fit", "commands.train", "config.build", "config.training",
))
SCORING = Scope(_SCORES, roots=_LOADED | _lab("training.ema", "config.build", "metrics.score"))
GIVEN = Scope(_SCORES, roots=_lab("config.build", "metrics.score", "metrics.given"))  # images from elsewhere
DRAWING = Scope(_SCORES, roots=_LOADED | _lab("metrics.samples"))  # the samples of a score
MEASURING = Scope(_SCORES, roots=_LOADED | _lab("metrics.measuring"))  # the statistics of a network
# fmt: on
_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
# Callbacks that observe and save; others are the user's, and may change training in any way.
OUR_CALLBACKS = tuple(yaml.safe_load((CONF / "callbacks" / "default.yaml").read_text(encoding="utf-8")))
# Options that only a user's callback can react to: when it is called, and with which values.
_SEEN_BY_CALLBACKS = frozenset(("val", "trainer.log_every_n_steps", "trainer.limit_val_batches"))


def training_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """The resolved config (plain containers) without keys that do not shape training.

    Callbacks that the user adds or substitutes count, and with them the validation and logging options that they
    may use; ours do not.
    """
    callbacks = {name: node for name, node in (config.get("callbacks") or {}).items() if node is not None}
    added = {name for name, node in callbacks.items() if not (name in OUR_CALLBACKS and _is_ours(node))}
    excluded = TRAINING_EXCLUDED | {f"callbacks.{name}" for name in config.get("callbacks") or {} if name not in added}
    excluded = excluded - _SEEN_BY_CALLBACKS if added else excluded | _SEEN_BY_CALLBACKS | {"callbacks"}

    def keep(node: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        return {
            key: keep(value, f"{prefix}{key}.") if isinstance(value, Mapping) else value
            for key, value in node.items()
            if f"{prefix}{key}" not in excluded
        }

    return keep(config, "")


def scored_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """The resolved config without keys that do not shape a score: what was trained, and the choices of scoring."""
    return training_part(config) | {key: config[key] for key in SCORED_GROUPS if config.get(key) is not None}


def _is_ours(callback: Mapping[str, Any]) -> bool:
    return str(callback.get("_target_", "diffusion_lab.")).startswith("diffusion_lab.")


def fingerprint(training_config: Mapping[str, Any], data_identity: str, code: str) -> str:
    """64 hex digits, equal for equal trainings. TypeError or ValueError for values that JSON cannot represent."""
    content = {"config": training_config, "data": data_identity, "code": code}
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def named_in(config: Any) -> Iterator[str]:
    """Every dotted name below a node of a config: each `_target_`, and names passed as arguments."""
    if isinstance(config, Mapping):
        config = list(config.values())
    if isinstance(config, list | tuple):
        for child in config:
            yield from named_in(child)
    elif isinstance(config, str) and _DOTTED.fullmatch(config):
        yield config


# ---- the code


class Module:
    """A module as its file was at the first reading.

    path: None for a package without `__init__`. folders: of a package; None for other modules. digest: SHA-256 of the syntax tree,
    or of a non-Python file, and of the files that a user's module names.
    """

    def __init__(self, name: str, path: Path | None, folders: list[str] | None) -> None:
        self.name, self.path, self.folders = name, path, folders
        self.content = b"" if path is None else path.read_bytes()
        tree = parsed(self.content) if path is None or path.suffix == ".py" else None
        try:
            code = self.content if tree is None else _text(tree).encode()
        except RecursionError:  # an expression with hundreds of operands
            code = self.content
        self.imports = list(imported(tree, name if folders is not None else name.rpartition(".")[0]))
        files = [] if is_lab(name) or path is None or tree is None else _files(tree, path.parent)
        self.digest = hashlib.sha256(b"\n".join([code, *files])).hexdigest()


class Code:
    """The code that this process runs; each file is read once, even if it is edited meanwhile.

    path: where modules are searched; None: where Python finds them.
    """

    def __init__(self, path: Sequence[str] | None = None) -> None:
        self._path = path
        self._modules: dict[str, Module | None] = {}

    def digest(self, names: Iterable[str], scope: Scope) -> str:
        """SHA-256 of dotted names, and of the modules reached from them and from the roots."""
        names = {*names}
        lines = [f"{name} {module.digest}" for name, module in self.reached(names, scope).items()]
        return hashlib.sha256("\n".join([*sorted(names), *sorted(lines)]).encode()).hexdigest()

    def reached(self, names: Iterable[str], scope: Scope) -> dict[str, Module]:
        """Name -> module, for all modules reached from these names and from the roots."""
        found: dict[str, Module] = {}
        queue = [("", name) for root in {*names, *scope.roots} for name in self._named(root)]
        while queue:
            source, name = queue.pop()
            module = None if name in found or not scope.follows(source, name) else self.module(name)
            if module is not None:
                found[name] = module
                queue += [(name, target) for of, part, _ in module.imports for target in self._leads(of, part)]
        return found

    def modules(self) -> list[Module]:
        """All modules read so far."""
        return [module for module in self._modules.values() if module is not None]

    def module(self, name: str) -> Module | None:
        """The module of this name; None if it does not exist or is installed."""
        if name not in self._modules:
            self._modules[name] = self._found(name)
        return self._modules[name]

    def _named(self, name: str) -> Iterator[str]:
        """The modules reached by a dotted name."""
        module, *rest = name.split(".")
        while rest and self.module(f"{module}.{rest[0]}") is not None:
            module = f"{module}.{rest.pop(0)}"
        yield from self._leads(module, rest[0] if rest else None)

    def _leads(self, name: str, attribute: str | None) -> Iterator[str]:
        """The modules needed for `from name import attribute`."""
        module = self.module(name)
        if module is None:
            return
        if not is_lab(name):
            parts = name.split(".")
            yield from (".".join(parts[:end]) for end in range(1, len(parts) + 1))
            if attribute and self.module(f"{name}.{attribute}") is not None:
                yield f"{name}.{attribute}"
            return
        handed_on = [
            (source, below) for source, below, bound in module.imports if bound == attribute and source != name
        ]
        if handed_on and module.folders is not None:
            yield from self._leads(*handed_on[-1])
        else:
            yield f"{name}.{attribute}" if attribute and self.module(f"{name}.{attribute}") is not None else name

    def _found(self, name: str) -> Module | None:
        parent, places = self.module(name.rpartition(".")[0]) if "." in name else None, self._path
        if "." in name:
            places = [] if parent is None or parent.folders is None else parent.folders
        try:
            spec = importlib.util.find_spec(name) if places is None else PathFinder.find_spec(name, places)
        except (ImportError, ValueError):  # ValueError for a module without a file, such as __main__ in a notebook
            return None
        if spec is None:
            return None
        folders = None if spec.submodule_search_locations is None else list(spec.submodule_search_locations)
        path = Path(spec.origin) if spec.origin and spec.has_location else None
        if not (path or folders):
            return None
        installed = not is_lab(name) and any(_is_installed(Path(file)) for file in folders or [str(path)])
        return None if installed else Module(name, path, folders)


def parsed(content: bytes) -> ast.Module | None:
    """The syntax tree of a module; None if it is not valid Python."""
    try:
        return ast.parse(content)
    except (SyntaxError, ValueError, RecursionError):  # reported by Python on import
        return None


def imported(tree: ast.Module | None, package: str) -> Iterator[tuple[str, str | None, str]]:
    """(module, name or None, bound name) of each import of a module in this package."""
    for node in _running(tree) if tree is not None else ():
        if isinstance(node, ast.Import):
            yield from ((alias.name, None, alias.asname or alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            above = parts[: len(parts) - node.level + 1] if node.level else []
            module = ".".join([*above, *filter(None, [node.module])])
            yield from ((module, alias.name, alias.asname or alias.name) for alias in node.names)


def is_lab(name: str) -> bool:
    return name.partition(".")[0] == LAB


def _is_installed(path: Path) -> bool:
    """Whether a path belongs to Python or to an installed package."""
    above = {path, *path.parents}
    return bool(above & _INSTALLED) or any(part.name in ("site-packages", "dist-packages") for part in above)


def _files(tree: ast.Module, folder: Path) -> Iterator[bytes]:
    """Digests of the files in or below a folder that a module there names."""
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    for name in sorted(filter(_FILE_NAME.fullmatch, texts)):
        file = folder / name
        if ".." not in Path(name).parts and file.is_file() and file.suffix != ".py":
            size = file.stat().st_size  # hashing a larger file would delay each command by seconds
            yield f"{name} {hashlib.sha256(file.read_bytes()).hexdigest() if size <= _LARGE else size}".encode()


def _running(tree: ast.Module) -> Iterator[ast.AST]:
    """All nodes except those below `if TYPE_CHECKING`, in source order."""
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        yield node
        if isinstance(node, ast.If) and getattr(node.test, "attr", getattr(node.test, "id", None)) == "TYPE_CHECKING":
            stack += reversed(node.orelse)
        else:
            stack += reversed(list(ast.iter_child_nodes(node)))


def _text(node: object) -> str:
    """Canonical text of a syntax tree: ast.dump without docstrings and without empty fields, which newer Pythons add."""
    if isinstance(node, ast.AST):
        return f"{type(node).__name__}({','.join(f'{name}={_text(value)}' for name, value in _fields(node))})"
    return f"[{','.join(map(_text, node))}]" if isinstance(node, list) else repr(node)


def _fields(node: ast.AST) -> Iterator[tuple[str, Any]]:
    for name in node._fields:
        value: Any = getattr(node, name, None)
        if name == "body" and isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            value = value[1:]
        if value is not None and value != []:
            yield name, value
