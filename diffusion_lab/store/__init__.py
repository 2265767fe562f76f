"""The layout of outputs/, defined only by this package. Does not import torch.

    outputs/models/<data>-<model>-<digest>/   one trained model   (ModelDirectory)
    outputs/runs/<model>-<digest>/            one scored cell     (RunDirectory)
    outputs/sweeps/<name>/                    many of them        (SweepDirectory)
    outputs/cache/                            reference statistics; samples/, statistics/   (CacheDirectory)
    outputs/features/                         features trained on a user's own images
    outputs/trash/                            what `prune` and retrain=true have put aside

provenance    the code that made a run; own_files: the user's own files in a name
files         whole files, and the folders that a user names with to=
lock          one writer of a folder
directories   what lies in the folder of a model, a score, a sweep; places: where these are; cache: what lies in the cache
records       JSON and YAML that may be a stranger's; status_file: how far work is; measures: what the numbers of a score mean
weight_names, option_names   names of weights and of options
processes     processes of this machine, and those that end with their parent

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
    "read_json", "run_directory", "runs_folder", "scored_runs", "sweep_directory", "write_json",
]
