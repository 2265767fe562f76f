"""`diffusion-lab` without a command: the content of outputs/ and the next commands to run. Does not import torch."""

from __future__ import annotations

import shlex
from pathlib import Path

from diffusion_lab.store import named_sweep, newest_model
from diffusion_lab.store.places import models_in, runs_folder, scored_runs, sweeps_in
from diffusion_lab.store.status_file import FAILED, INTERRUPTED, RUNNING
from diffusion_lab.sweeps.watch import JobProgress, is_over, job_progress, other_trainings, summary

_STATES = {
    "Running now": (RUNNING,),
    "Stopped before the end (run the same `diffusion-lab train …` again to resume)": (INTERRUPTED, FAILED),
}


def next_steps(outputs: Path) -> list[str]:
    """What exists, in a few lines, and commands to type. RunError if a record cannot be read."""
    number, progress = sum(model.is_generative for model in models_in(outputs)), list[JobProgress]()
    found = [
        f"{number} trained model{'s' * (number > 1)}" if number else f"There is no trained model in {outputs} yet."
    ]
    commands = {
        "diffusion-lab train": "handwritten digits, one to three minutes on two cores",
        "diffusion-lab train data=image_folder data.root=FOLDER": "your own images",
        "diffusion-lab doctor": "check this machine",
    }
    if number:
        newest, runs = newest_model(outputs), scored_runs(runs_folder(outputs))
        own = [run.samples_png for run in runs if run.path.name.startswith(newest.path.name)]
        pictures = [file for file in own if file.is_file()] or newest.grids
        found[0] += f". The newest: {newest.path}"
        found += [f"Samples: {max(pictures, key=lambda file: file.stat().st_mtime_ns)}"] if pictures else []
        has_sampler = newest.choices.is_file() and newest.read_choices().get("sampler")
        few = " sampler.spacing.num_steps=10" if has_sampler else ""
        commands = {
            "diffusion-lab sample": "draw 64 samples",
            "diffusion-lab demo": "change its sampler, steps and seed in your browser",
            f"diffusion-lab evaluate{few}": "score it" + (" with ten sampling steps" if few else ""),
            "diffusion-lab train -m schedule=linear,cosine seed=1,2": "a sweep: compare two schedules",
        }
        commands |= {f"diffusion-lab report runs={runs_folder(outputs)}": "all scores on one page"} if runs else {}
    if sweeps_in(outputs):
        sweep = named_sweep(outputs, None)
        progress, name = job_progress(sweep), shlex.quote(sweep.path.name)
        pages = sorted(sweep.report.glob("*.html"), key=lambda page: -page.stat().st_mtime_ns)
        found += [f"Sweep {sweep.path}: {summary(progress)}", *(f"Report: {page}" for page in pages[:1])]
        if is_over(progress):
            commands[f"diffusion-lab report {name}"] = "tables and figures of the sweep"
        else:
            commands[f"diffusion-lab status {name}"] = "progress of the sweep"
            typed = sweep.read_sweep().get("command")
            if typed and all(each.state != RUNNING for each in progress):
                commands[f"diffusion-lab train -m {shlex.join(typed)}"] = "continue the sweep"
    others = other_trainings(outputs, progress, finished=True)
    for said, states in _STATES.items():
        some = [each for each in others if each.state in states]
        for each in some[:1]:
            steps = (
                f", step {each.status.step or 0} of {each.status.steps}" if each.status and each.status.steps else ""
            )
            found.append(f"{said}: {each.folder}{steps}{f', and {len(some) - 1} more' if len(some) > 1 else ''}")
    commands["diffusion-lab --help"] = "all commands"
    width = max(map(len, commands))
    return [*found, "", "Next:", *(f"  {typed:<{width}}  {what}" for typed, what in commands.items())]
