"""Lightning's own lines, without its advertising and without its second log handler."""

from __future__ import annotations

import logging
import warnings

import lightning.pytorch  # first: importing it adds handlers of its own


class _PrintHandler(logging.Handler):
    """Onto the terminal as it is, or wherever a job's output goes."""

    def emit(self, record: logging.LogRecord) -> None:
        print(record.getMessage())


def quiet_lightning() -> None:
    """Warnings and errors of Lightning are shown once; what it says about itself is not."""
    logger = logging.getLogger(lightning.pytorch.__name__)
    logger.handlers.clear()
    logger.setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    profiles = logging.getLogger("lightning.pytorch.profilers")  # the user wants these: trainer.profiler
    profiles.setLevel(logging.INFO)
    profiles.handlers, profiles.propagate = [_PrintHandler()], False
    # Lightning 2.6 still uses what torch 2.13 deprecates; a user cannot change it.
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)", category=FutureWarning)
    # It counts parameters in 32 bits whatever they are; their number is right.
    warnings.filterwarnings("ignore", message=r"Precision \S+ is not supported by the model summary")
    # The user has chosen the CPU.
    warnings.filterwarnings("ignore", message="GPU available but not used")
    # On a cluster's login node one may train too.
    warnings.filterwarnings("ignore", message="The `srun` command is available on your system")
