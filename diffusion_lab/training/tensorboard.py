"""TensorBoard, with the grids of samples."""

from __future__ import annotations

import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image


class TensorBoard(TensorBoardLogger):
    """Lightning's logger, which has no `log_image`, in one folder for all starts of a training."""

    def __init__(self, save_dir: str) -> None:
        super().__init__(save_dir, name="", version="", default_hp_metric=False)

    def log_image(self, key: str, images: list[str], step: int) -> None:
        for file in images:
            self.experiment.add_image(key, np.asarray(Image.open(file).convert("RGB")), step, dataformats="HWC")
