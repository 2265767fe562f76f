"""diffusion-lab prune: list, with sizes, what no sweep and no current code uses in outputs/; remove=true removes it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from omegaconf import DictConfig, ListConfig
from rich.console import Console
from rich.text import Text

from diffusion_lab.from_config.current import is_current
from diffusion_lab.from_config.mistakes import MistakeError
from diffusion_lab.pruning.caches import unused_cache
from diffusion_lab.pruning.copies import unused_code
from diffusion_lab.pruning.models import find
from diffusion_lab.pruning.snapshots import unused_snapshots
from diffusion_lab.pruning.unused import Unused
from diffusion_lab.runs import CacheDirectory, cache_directory
from diffusion_lab.terminal import Terminal

_TRIES, _PAUSE_SECONDS = 20, 0.5
KINDS = ("runs", "models", "cache", "code", "snapshots")  # in the order of removal: a score goes before its model


def completed(options: list[str]) -> list[str]:
    """`prune` takes its options as they are."""
    return options


def run(cfg: DictConfig) -> None:
    """List, and remove with remove=true."""
    wanted = [str(kind) for kind in cfg.what] if isinstance(cfg.what, ListConfig) else [str(cfg.what)]
    unknown = [kind for kind in wanted if kind not in KINDS]
    if unknown:
        raise MistakeError(f"what={unknown[0]}: choose from {', '.join(KINDS)}")
    if not isinstance(cfg.remove, bool):
        raise MistakeError(f"remove={cfg.remove}: choose true or false")
    outputs, console = Path(cfg.outputs), Terminal()
    unused, notes = _find_unused(outputs, Path(cfg.jobs))
    chosen = [one for kind in KINDS if kind in wanted for one in unused[kind]]
    for sentence in notes:
        console.print(Text(sentence, style="yellow"))
    for line in _lines(chosen, outputs) if chosen else [f"nothing to prune in {outputs}"]:
        console.print(line)
    for kind in KINDS:
        if kind not in wanted and unused[kind]:
            left_out = f"{len(unused[kind])} {kind}, {_size(unused[kind])} (what=[{kind}])"
            console.print(f"not listed: {left_out}")
    if chosen and cfg.remove:
        _remove(chosen, console)
    elif chosen:
        console.print("nothing has been removed; set remove=true to remove what is listed")


def _find_unused(outputs: Path, jobs: Path) -> tuple[dict[str, list[Unused]], list[str]]:
    """What is not needed, by kind, and a sentence on everything that is kept because this is not known."""
    for _ in range(_TRIES):
        try:
            found = find(outputs, is_current)
            unused = {
                "runs": found.unused_runs,
                "models": found.unused_models,
                "cache": unused_cache(CacheDirectory(cache_directory(outputs)), found),
                "code": list(unused_code(outputs, jobs)),
                "snapshots": unused_snapshots(found),
            }
            return unused, found.notes
        except FileNotFoundError as error:  # another process, a second prune for one, has just removed something
            gone = error.filename
            time.sleep(_PAUSE_SECONDS)
    raise MistakeError(
        f"{gone} has disappeared: another process is removing files in {outputs}; run the same command again later"
    )


def _lines(unused: Sequence[Unused], outputs: Path) -> Iterator[str]:
    """A table that is as wide as its paths, so that they can be copied."""
    rows = [("size", f"in {outputs}", "why it is not needed")]
    rows += [(_size([one]), str(one.path.relative_to(outputs)), one.why) for one in unused]
    rows.append((_size(unused), "in all", ""))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return (f"{size:>{widths[0]}}  {path:<{widths[1]}}  {why}".rstrip() for size, path, why in rows)


def _remove(unused: Sequence[Unused], console: Console) -> None:
    freed = 0
    for one in unused:
        size, why_not = one.size, one.remove()
        if why_not is not None:
            console.print(Text(f"kept: {one.path}: {why_not}", style="yellow"))
            continue
        freed += size
        others = ", ".join(sorted(entry.name for entry in one.path.glob("*")))
        if others:
            console.print(
                f"{one.path} is kept, because it holds files that the lab did not write: {others}",
            )
    console.print(f"removed {_readable_size(freed)}")


def _size(unused: Sequence[Unused]) -> str:
    return _readable_size(sum(one.size for one in unused))


def _readable_size(size: int) -> str:
    """1536 -> 2 KiB, 15,000,000 -> 14.3 MiB."""
    return f"{size / 2**10:.0f} KiB" if size < 2**20 else f"{size / 2**20:,.1f} MiB"
