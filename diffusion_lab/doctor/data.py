"""Which of the data sets in conf/data are on this machine, and the weights that features=inception needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from diffusion_lab.doctor.finding import BROKEN, LACKS, OK, Finding

if TYPE_CHECKING:
    from diffusion_lab.data.base import DataModule

_DEFAULT = "digits"  # data of `diffusion-lab train`


def data_sets(folder: Path, build: Callable[[dict[str, Any]], DataModule]) -> Iterator[Finding]:
    """One finding for each yaml in `folder`, from whose options `build` makes the data set.

    Files are looked for and hashed; no image is decoded.
    """
    for file in sorted(folder.glob("*.yaml"), key=lambda file: (file.stem != _DEFAULT, file.stem)):
        options: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))["data"]
        name = f"data={file.stem}"
        open_options = [f"data.{option}=…" for option, value in options.items() if value == "???"]
        if open_options:
            yield Finding(name, OK, f"reads the files that you set with {' and '.join(open_options)}")
            continue
        missing = build({**options, "seed": 0}).missing()
        if missing is None:
            yield Finding(name, OK, "ready")
        else:
            found, _, to_do = missing.rstrip(".").partition(": set ")
            yield Finding(name, BROKEN if file.stem == _DEFAULT else LACKS, found, f"set {to_do}")


def inception_weights() -> Iterator[Finding]:
    """The weights of the original FID."""
    from diffusion_lab.evaluation.classifiers import WeightsError
    from diffusion_lab.evaluation.inception import checked, usual_file

    try:
        checked(usual_file())
    except WeightsError as error:
        found, _, to_do = str(error).rstrip(".").partition(": ")
        yield Finding("features=inception", LACKS, found, to_do)
    else:
        yield Finding("features=inception", OK, "the published weights were found")
