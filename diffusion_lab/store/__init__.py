"""The layout of outputs/, defined only by this package. Does not import torch.

    outputs/models/<data>-<model>-<fingerprint>/   one trained model   (ModelDirectory)
    outputs/runs/<id>/                             one scored cell     (RunDirectory)
    outputs/sweeps/<name>/                         many of them        (SweepDirectory)
    outputs/jobs/                                  files of queued jobs   (`jobs`)
    outputs/cache/                                 reference statistics; samples/, statistics/   (CacheDirectory)
    outputs/features/                              features trained on a user's own images

The fingerprint is that of `fingerprints.fingerprint`, so the same command finds its model again.
Nothing here makes a folder before something is written into it.
"""

from diffusion_lab.store.cache import CacheDirectory
from diffusion_lab.store.directories import Directory, ModelDirectory, RunDirectory, SweepDirectory, job_log
from diffusion_lab.store.places import (
    FINGERPRINT_LENGTH,
    cache_directory,
    features_file,
    model_directory,
    named_model,
    named_sweep,
    newest_model,
    newest_sweep,
    run_directory,
    runs_folder,
    scored_runs,
    sweep_directory,
)
from diffusion_lab.store.records import RunError, read_json, write_json

# fmt: off
__all__ = [
    "FINGERPRINT_LENGTH", "CacheDirectory", "Directory", "ModelDirectory", "RunDirectory", "RunError", "SweepDirectory",
    "cache_directory", "features_file", "job_log", "model_directory", "named_model", "named_sweep", "newest_model",
    "newest_sweep", "read_json", "run_directory", "runs_folder", "scored_runs", "sweep_directory", "write_json",
]
