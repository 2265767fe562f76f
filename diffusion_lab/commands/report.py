"""diffusion-lab report: one page with tables and figures about a sweep or any runs.

Trains and scores nothing.
"""

from __future__ import annotations

import glob
from contextlib import suppress
from pathlib import Path

from omegaconf import DictConfig, ListConfig

from diffusion_lab.config.mistakes import MistakeError
from diffusion_lab.config.naming import edited
from diffusion_lab.config.tracking import build_trackers, track_report
from diffusion_lab.report.make import make_report, report_on_runs, write_poster
from diffusion_lab.report.read import read_runs, read_sweep
from diffusion_lab.report.table import Gathered
from diffusion_lab.store import RunDirectory, RunError, named_sweep, runs_folder, scored_runs
from diffusion_lab.store.provenance import first_of, with_other_files
from diffusion_lab.terminal import Terminal

FORMATS = ("page", "figure")


def run(cfg: DictConfig) -> None:
    """Show the tables and write the report, or write figures for a poster."""
    if cfg.runs is not None and cfg.sweep is not None:
        raise MistakeError("give sweep=… or runs=…, not both")
    if cfg.format not in FORMATS:
        raise MistakeError(f"format={cfg.format}: unknown format; choose one of {', '.join(FORMATS)}")
    trackers = build_trackers(cfg)  # reports mistakes before anything is written
    if trackers and (cfg.runs is not None or cfg.format == "figure"):
        raise MistakeError("logger has no effect with runs=… or format=figure: remove it, or give sweep=… instead")
    outputs = Path(cfg.outputs)
    patterns = [str(p) for p in cfg.runs] if isinstance(cfg.runs, ListConfig) else [str(cfg.runs)]
    folders = [] if cfg.runs is None else _run_folders(patterns, outputs)
    sweep = None if folders else named_sweep(outputs, None if cfg.sweep is None else str(cfg.sweep))
    if cfg.format == "figure":
        to = Path(cfg.to or (sweep.path / "figure" if sweep else "figure"))
        write_poster(read_sweep(sweep) if sweep else read_runs(folders, to.name), to)
        Terminal().print(f"figures  {to}  (pdf, svg and png, one of each main measure)")
        return
    if sweep is None:
        to = Path(cfg.to or "report")
        command = f"diffusion-lab report 'runs=[{','.join(patterns)}]' to={to}"
        page = report_on_runs(folders, to, command, show=True)
    else:
        page = make_report(sweep, Path(cfg.to) if cfg.to else None, show=True)
        track_report(cfg, sweep, page.parent)
    for line in _of_other_files(read_runs(folders, "") if sweep is None else read_sweep(sweep)):
        Terminal().print(line)
    Terminal().print(
        f"report  {page}  (with table.csv, cells.csv, table.md, table.tex and figures/ in the same folder)"
    )


def _of_other_files(gathered: Gathered) -> list[str]:
    """A sentence if files were edited since models of the report were trained with them."""
    lines = []
    for model in dict.fromkeys(cell.model for cell in gathered.done if cell.model.finished):
        with suppress(RunError):  # it is damaged
            lines += with_other_files(model.path, [*edited(model)])
    return first_of(lines)


def _run_folders(patterns: list[str], outputs: Path) -> list[Path]:
    """Run folders that match the patterns: a run, a folder of runs, or the name of a run in outputs/runs."""
    folders: list[Path] = []
    for pattern in patterns:
        found = sorted(glob.glob(pattern)) or sorted(glob.glob(str(runs_folder(outputs) / pattern)))
        matches = [Path(path) for path in found if Path(path).is_dir()]
        if not matches:
            raise MistakeError(f"runs={pattern}: there is no such folder, here or in {runs_folder(outputs)}")
        for match in matches:
            scored = [match] if RunDirectory(match).metrics.is_file() else [run.path for run in scored_runs(match)]
            if not scored:
                scores = runs_folder(outputs)
                raise MistakeError(f"runs={pattern}: {match} holds no score; scores are in runs={scores}")
            folders += scored
    return folders
