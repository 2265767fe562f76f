"""diffusion-lab prune: list, with sizes, files in outputs/ that nothing uses any more; remove=true removes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from hydra.errors import InstantiationException
from omegaconf import DictConfig, ListConfig
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.filesize import decimal
from rich.text import Text

from diffusion_lab.config.identity import CODE, training_fingerprint
from diffusion_lab.config.loading import read_config
from diffusion_lab.config.mistakes import MistakeError
from diffusion_lab.config.overrides import as_plain
from diffusion_lab.config.untrusted import check_targets, targets
from diffusion_lab.store import ModelDirectory, RunDirectory
from diffusion_lab.store.files import clear, remove_written
from diffusion_lab.store.fingerprints import TRAINING, training_part
from diffusion_lab.store.lease import OvertakenError, give_up, hold
from diffusion_lab.store.records import RunError
from diffusion_lab.store.written import PlaceError, is_ours
from diffusion_lab.sweeps.frozen import remove_copy
from diffusion_lab.sweeps.pruning import Outputs, Unused
from diffusion_lab.terminal import Terminal

_BUILT = ("variance", "objective")  # read from a folder that may be somebody else's
KINDS = ("runs", "models", "cache", "code")  # in the order of removal: scores before their models


def run(cfg: DictConfig) -> None:
    """List unused files; remove them with remove=true."""
    wanted = [str(kind) for kind in cfg.what] if isinstance(cfg.what, ListConfig) else [str(cfg.what)]
    unknown = [kind for kind in wanted if kind not in KINDS]
    if unknown:
        raise MistakeError(f"what={unknown[0]}: choose from {', '.join(KINDS)}")
    outputs, remove, console = Path(cfg.outputs), cfg.remove, Terminal()
    unused, notes = _find_unused(outputs, Path(cfg.jobs))
    chosen = [one for kind in KINDS if kind in wanted for one in unused[kind]]
    for sentence in notes:
        console.print(Text(sentence, style="yellow"))
    for line in _lines(chosen, outputs) if chosen else [f"nothing to prune in {outputs}"]:
        console.print(line)
    if chosen and remove:
        _remove(chosen, console)
    elif chosen:
        console.print("nothing has been removed; set remove=true to remove what is listed")


def _find_unused(outputs: Path, jobs: Path) -> tuple[dict[str, list[Unused]], list[str]]:
    """Unused files by kind, and a sentence on each file that is kept because its use is unknown."""
    try:
        found = Outputs(outputs, is_current)
        unused = {
            "runs": list(found.unused_runs()),
            "models": list(found.unused_models()),
            "cache": list(found.unused_cache()),
            "code": list(found.unused_code(jobs)),
        }
    except FileNotFoundError as error:
        said = f"{error.filename} has disappeared, because another process removes files; try again later"
        raise MistakeError(said) from None
    return unused, found.notes


def is_current(place: ModelDirectory | RunDirectory, fingerprint: str) -> bool:
    """Whether the current code gives the training in `place` a fingerprint that begins with these digits.

    RunError, in one sentence, if it cannot be computed: a module is missing, or the file holds something forbidden.
    """
    code = place.read_training().get("code") if isinstance(place, ModelDirectory) and place.finished else None
    if code is not None and all(map(_is_found, {name.partition(".")[0] for name in code["names"]})):
        return CODE.digest(code["names"], TRAINING) == code["digest"]  # recorded, so the config need not be composed
    cfg = read_config(place)
    if not isinstance(cfg.facts.get("identity"), str):
        raise RunError(f"{place.config} does not say which data it was trained on")
    try:
        config = as_plain(cfg)
        for target in targets(training_part(config)):
            package = target.partition(".")[0]
            if not _is_found(package):
                raise RunError(f"{place.config} names {target}, but Python cannot find {package}")
        check_targets({group: as_plain(cfg[group]) for group in _BUILT if cfg.get(group)}, place.config)
        return training_fingerprint(cfg).startswith(fingerprint)
    except (OmegaConfBaseException, InstantiationException, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"{place.config}: {' '.join(str(error).split())}") from None


def _is_found(package: str) -> bool:
    return package.isidentifier() and find_spec(package) is not None


def _lines(unused: Sequence[Unused], outputs: Path) -> Iterator[str]:
    """A table as wide as its paths, so that they can be copied."""
    rows = [("size", f"in {outputs}", "why it is not needed")]
    rows += [(decimal(one.size), str(one.path.relative_to(outputs)), one.why) for one in unused]
    rows.append((decimal(sum(one.size for one in unused)), "in all", ""))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return (f"{size:>{widths[0]}}  {path:<{widths[1]}}  {why}".rstrip() for size, path, why in rows)


def _remove(unused: Sequence[Unused], console: Console) -> None:
    freed = 0
    for one in unused:
        size, why_not = one.size, removed(one)
        if why_not is not None:
            console.print(Text(f"kept: {one.path}: {why_not}", style="yellow"))
            continue
        freed += size
        others = ", ".join(sorted(entry.name for entry in one.path.glob("*")))
        if others:
            console.print(f"{one.path} is kept, because it holds files that the lab did not write: {others}")
    console.print(f"removed {decimal(freed)}")


def removed(one: Unused) -> str | None:
    """Remove our unchanged files; None, or the reason why the place is kept."""
    try:
        if one.jobs is not None:
            return None if remove_copy(one.path, one.jobs) else "a process is using it"
        if one.path.is_dir():
            with hold(one.path, _refuse):
                remove_written(one.path)
                give_up(one.path)
        elif is_ours(one.path):
            clear(one.path)
    except (OvertakenError, PlaceError, RunError) as error:
        return str(error)
    except OSError as error:
        return f"{error.filename or one.path}: {error.strerror or error}"
    return None


def _refuse(holder: str) -> NoReturn:
    """Refuse to wait, for `lease.hold`."""
    raise PlaceError(f"{holder} is using it")
