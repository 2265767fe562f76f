"""A score as a person reads it: one table, every number with its unit and what it has to be seen beside."""

from __future__ import annotations

from typing import Any

from rich.table import Table


def score_table(metrics: dict[str, Any]) -> Table:
    """metrics.json -> a table of name, value and what the value means."""
    values, protocol = metrics["values"], metrics["protocol"]
    table = Table(title=_title(protocol), title_justify="left", box=None, pad_edge=False, header_style="dim")
    table.add_column("measure")
    table.add_column("value", justify="right")
    table.add_column("", style="dim")

    reference = protocol["reference"]
    num_images = protocol["samples"]["num_images"]
    floor_images = protocol["floor"]["num_images"]
    for name in sorted(key for key in values if key.startswith(("fd_", "fid")) and not key.endswith("_floor")):
        meaning = f"n = {num_images} vs {reference['num_images']} {reference['split']} images; lower is better"
        table.add_row(name, f"{values[name]:.3f}", meaning)
        floor = values.get(f"{name}_floor")
        if floor is not None:
            meaning = f"n = {floor_images} real {protocol['floor']['split']} images vs the same"
            if floor_images != num_images:
                meaning += "; another n, so not comparable"
            table.add_row("  its floor", f"{floor:.3f}", meaning)
    for name, meaning in (
        ("precision", "share of samples that look real"),
        ("recall", "share of real images that samples come near"),
    ):
        if name in values:
            table.add_row(name, f"{values[name]:.3f}", meaning)
    if "classes_present" in values:
        real, entropy = protocol["class_coverage"], values["class_entropy"]
        meaning = f"of {real['reference_present']:.0f} are drawn, {entropy:.2f} bits of {real['reference_entropy']:.2f}"
        table.add_row("classes", f"{values['classes_present']:.0f}", meaning)
    if "inception_score" in values:
        value = f"{values['inception_score']:.3f} ± {values['inception_score_std']:.3f}"
        parts = protocol["inception_score"]["num_parts"]
        table.add_row("inception score", value, f"n = {num_images} in {parts} parts; higher is better")
    for name in sorted(key for key in values if key.startswith("accuracy_")):
        classifier = name.removeprefix("accuracy_")
        table.add_row("accuracy", f"{100 * values[name]:.1f} %", f"of samples that {classifier} takes for their label")
    if "bits_per_dim" in values:
        error, bound = values.get("bits_per_dim_standard_error"), protocol["bound"]
        value = f"{values['bits_per_dim']:.3f}" + (f" ± {error:.3f}" if error is not None else "")
        table.add_row("bits/dim", value, f"{bound['kind']}, {bound['num_images']} {bound['split']} images")
    table.add_row("NFE", f"{values['nfe']:.0f}", "network evaluations a sample")
    if "seconds_per_1000_samples" in values:
        seconds, where = values["seconds_per_1000_samples"], protocol["cost"]["device"]
        table.add_row("seconds", f"{seconds:.1f}", f"per 1000 samples ({where})")
    if "training_seconds" in values:
        steps, images = values["training_steps"], values["training_images"]
        table.add_row("training", f"{values['training_seconds']:.0f} s", f"{steps:.0f} steps, {images:.0f} images")
    shown = ("bits_per_dim", "precision", "inception_score", "seconds_per_1000_samples")
    for name, reason in protocol["absent"].items():
        if name in shown or name.startswith(("fd_", "fid")):
            table.add_row(name.removesuffix("_per_1000_samples"), "–", reason)
    return table


def _title(protocol: dict[str, Any]) -> str:
    return f"{protocol['data']['name']}, {protocol['model']['family']}, weights {protocol['weights']}"
