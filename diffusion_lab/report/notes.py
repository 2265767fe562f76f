"""What has to be known to read the numbers of a group."""

from __future__ import annotations

from collections.abc import Sequence

from diffusion_lab.report.compare import listed
from diffusion_lab.report.layout import columns
from diffusion_lab.report.table import Group
from diffusion_lab.store.measures import ENTROPY, Measure


def has_floor(group: Group) -> bool:
    return any(group.floor(measure) is not None for measure in group.measures)


def notes(group: Group, measures: Sequence[Measure]) -> list[str]:
    """What has to be known to read these numbers of a group: how they were measured, what ± and marks mean, footnotes."""
    if not group.rows:
        return []
    samples, reference = group.protocol.get("samples", {}), group.protocol.get("reference", {})
    data, features = group.protocol.get("data", {}), group.protocol.get("features", {})
    drawn = f"{samples.get('num_images')} samples of seed {samples.get('seed')}"
    real = f"{reference.get('num_images')} {reference.get('split')} images"
    real = f"{reference.get('form')} of {reference['given']}" if "given" in reference else real
    said = [
        f"{data.get('name')}: {drawn} against {real}, features {features.get('name')} unless a column names others."
    ]
    for cell in (cell for row in group.rows for cell in row.done if cell.given is not None):
        name, digest = cell.given.get("name"), str(cell.given.get("digest"))[:12]
        facts = [f"given images, SHA-256 of their pixels {digest}…", *cell.protocol.get("remarks", [])]
        said.append(f"{name}: {'; '.join(facts)}.")
    seeds = max(len(row.seeds) for row in group.rows)
    said.append(
        _errors(group, measures)
        + ("" if seeds > 1 else " The spread between trainings with different seeds is not known.")
    )
    if len(group.rows) > 1:
        said.append(
            "Best (bold) only where the 95 % interval of its difference to every other row measured the same way "
            "excludes 0: an interval from all these sources, paired over shared seeds, noise and images."
            + (" Its part over two seeds is ±12.7 standard errors, over three ±4.3." if seeds == 2 else "")
        )
    floor = next(
        (cell.protocol["floor"] for row in group.rows for cell in row.done if cell.protocol.get("floor")), None
    )
    if floor is not None and has_floor(group):
        other = (
            "" if floor.get("num_images") == samples.get("num_images") else ", a different number, so not comparable"
        )
        said.append(f"Real images: {floor.get('num_images')} of {floor.get('split')} against the same{other}.")
    for column in (column for column in columns(group) if column.measure in measures):
        said += [f"{column.measure.label} [{letter}]: {text}." for letter, text in column.notes.items()]
        if not column.letters and column.measure.name == "bits_per_dim":
            cell = next(cell for row in group.rows for cell in row.cells_with("bits_per_dim").values())
            bound = cell.protocol.get("bound", {})
            said.append(f"bits/dim: {bound.get('kind')}, of {bound.get('num_images')} {bound.get('split')} images.")
    said += [f"{measure.label}: {measure.meaning}." for measure in measures if measure.floor_of]
    entropy = group.fact(ENTROPY)
    if entropy is not None:
        said.append(
            f"The entropy of the data is {entropy:.3f} bits/dim: an unconditional model needs at least as many."
        )
    return said


def _errors(group: Group, measures: Sequence[Measure]) -> str:
    """What ± is over, column by column where it is not the same for all."""
    columns_by_source: dict[str, list[str]] = {}
    for measure in measures:
        if measure.better is None:
            continue
        known = dict.fromkeys(row.values[measure.name].error_over for row in group.rows if measure.name in row.values)
        for over in known:
            columns_by_source.setdefault(over or "", []).append(measure.label.strip())
    known_for_all = len(columns_by_source) == 1
    told = [
        over if known_for_all else f"{over} ({listed(labels)})" for over, labels in columns_by_source.items() if over
    ]
    return f"± is the standard error over {'; over '.join(told)}." if told else "Errors are not known."
