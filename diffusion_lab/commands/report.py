"""diffusion-lab report: one page with tables and figures about a sweep or any runs.

Trains and scores nothing.
"""

from __future__ import annotations

import glob
from pathlib import Path

from omegaconf import DictConfig, ListConfig

from diffusion_lab.config.mistakes import MistakeError
from diffusion_lab.config.tracking import build_trackers, track_report
from diffusion_lab.report.make import make_report, report_on_runs
from diffusion_lab.store import RunDirectory, named_sweep, runs_folder, scored_runs
from diffusion_lab.terminal import Terminal


def run(cfg: DictConfig) -> None:
    """Show the tables and write the report."""
    if cfg.runs is not None and cfg.sweep is not None:
        raise MistakeError("give sweep=… or runs=…, not both")
    trackers = build_trackers(cfg)  # reports mistakes before anything is written
    if cfg.runs is not None:
        if trackers:
            raise MistakeError("logger has no effect with runs=…: remove it, or give sweep=… instead")
        patterns = [str(p) for p in cfg.runs] if isinstance(cfg.runs, ListConfig) else [str(cfg.runs)]
        to = Path(cfg.to or "report")
        command = f"diffusion-lab report 'runs=[{','.join(patterns)}]' to={to}"
        page = report_on_runs(_run_folders(patterns, Path(cfg.outputs)), to, command, show=True)
    else:
        sweep = named_sweep(Path(cfg.outputs), None if cfg.sweep is None else str(cfg.sweep))
        page = make_report(sweep, Path(cfg.to) if cfg.to else None, show=True)
        track_report(cfg, sweep, page.parent)
    Terminal().print(
        f"report  {page}  (with table.csv, cells.csv, table.md, table.tex and figures/ in the same folder)"
    )


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
                raise MistakeError(
                    f"runs={pattern}: {match} holds no score: name scored runs, as in {runs_folder(outputs)}"
                )
            folders += scored
    return folders
