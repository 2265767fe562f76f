"""What lies in outputs/, and what makes two trainings the same. The only file that knows; imports no torch.

    outputs/models/<data>-<model>-<fingerprint>/   one trained model   (ModelDirectory)
    outputs/runs/<id>/                             one scored cell     (RunDirectory)
    outputs/sweeps/<name>/                         many of them        (SweepDirectory)
    outputs/cache/                                 reference statistics; samples/: samples of scores

The fingerprint is that of everything that shapes training and of nothing else: the training part of the resolved
config, the data set's identity, and a digest of the code that trains. So the same command finds its model again.
Nothing here makes a folder until something is written into it.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusion_lab.files import write_whole

# Keys of the resolved config that do not shape the weights, with everything below them; all other keys do.
# fmt: off
TRAINING_EXCLUDED = frozenset((
    # used after training
    "sampler", "guidance", "sampling", "evaluation", "features",
    # what is watched and kept while training
    "logger", "callbacks", "checkpoint", "progress",
    "trainer.logger", "trainer.callbacks", "trainer.log_every_n_steps", "trainer.enable_checkpointing",
    "trainer.enable_progress_bar", "trainer.enable_model_summary", "trainer.profiler", "trainer.detect_anomaly",
    "trainer.num_sanity_val_steps", "trainer.val_check_interval", "trainer.check_val_every_n_epoch",
    "trainer.limit_val_batches", "trainer.limit_test_batches", "trainer.limit_predict_batches",
    # where files lie: the data set's identity is that of its content
    "model_dir", "outputs", "paths", "data.root", "data.path", "data.download", "trainer.default_root_dir",
    # which files are let in: the identity counts those that were
    "data.on_error", "data.max_pixels",
    # what is asked of the command
    "retrain", "rescore", "score", "objective_metric",
    # on which machine, how fast: randomness is keyed for the global batch, so these change rounding only
    "slurm", "compile", "workers", "data.num_workers",
    "trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.plugins",
    "trainer.benchmark", "trainer.deterministic", "trainer.use_distributed_sampler",
))
# fmt: on
TRAINING_CODE = ("diffusion", "baselines", "networks", "data", "models", "callbacks")
FINGERPRINT_LENGTH = 12  # hex digits in a folder's name


class RunError(RuntimeError):
    """Something under outputs/ is missing or broken; the message is one sentence that names it."""


# ---- what makes two trainings the same ------------------------------------------------------------------------------


def training_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """The resolved config (plain containers) without the keys that do not shape training."""

    def keep(node: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        return {
            key: keep(value, f"{prefix}{key}.") if isinstance(value, Mapping) else value
            for key, value in node.items()
            if f"{prefix}{key}" not in TRAINING_EXCLUDED
        }

    return keep(config, "")


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted keys whose values differ, or that only one of the two has."""
    changed = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            changed += changed_keys(before, after, f"{prefix}{key}.")
        elif key not in old or key not in new or before != after:
            changed.append(f"{prefix}{key}")
    return changed


def fingerprint(training_config: Mapping[str, Any], data_identity: str, code: str) -> str:
    """64 hex digits; equal for equal trainings. Raises TypeError or ValueError for what JSON cannot hold."""
    content = {"config": training_config, "data": data_identity, "code": code}
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def canonical_json(content: Any) -> str:
    """One text for one content: keys sorted, no spaces, floats in their shortest exact form (Python's repr)."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=True)


def code_digest(package: Path, parts: Iterable[str] = TRAINING_CODE) -> str:
    """SHA-256 of the syntax trees under package/part for each part (a folder or a file).

    Comments, docstrings, formatting and the Python version change nothing; any other change of code does.
    """
    digest = hashlib.sha256()
    for part in sorted(parts):
        path = package / part
        if not path.exists():
            raise RunError(f"there is no code at {path}")
        for source in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            tree = _canonical_tree(ast.parse(source.read_bytes(), filename=str(source)))
            digest.update(f"{source.relative_to(package).as_posix()}\n{tree}\n".encode())
    return digest.hexdigest()


def _canonical_tree(node: Any) -> str:
    """Like ast.dump, but empty fields are left out (Python versions add such fields), and so are docstrings."""
    if isinstance(node, ast.AST):
        fields = {name: value for name, value in ast.iter_fields(node) if value is not None and value != []}
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
            fields["body"] = body or [ast.Pass()]
        return f"{type(node).__name__}({', '.join(f'{name}={_canonical_tree(v)}' for name, v in fields.items())})"
    if isinstance(node, list):
        return f"[{', '.join(map(_canonical_tree, node))}]"
    return repr(node)


# ---- files ----------------------------------------------------------------------------------------------------------


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Readable, strict JSON (ValueError for NaN), whole or not at all; makes the folder."""
    write_whole(path, (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Raises RunError if the file is missing or is not a JSON object."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise RunError(f"there is no {path}") from None
    except ValueError as error:  # also what is not UTF-8
        raise RunError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise RunError(f"{path} does not hold a JSON object")
    return content


@dataclass(frozen=True)
class ModelDirectory:
    """One trained model. `training` is written last: where it lies, training has finished."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved config it was trained with."""
        return self.path / "config.yaml"

    @property
    def choices(self) -> Path:
        """Which option of each group that config was composed from."""
        return self.path / "choices.json"

    @property
    def resume(self) -> Path:
        """What training goes on from."""
        return self.path / "resume.ckpt"

    @property
    def training(self) -> Path:
        """Steps, seconds and images of the finished training."""
        return self.path / "training.json"

    @property
    def accuracy(self) -> Path:
        """Of a classifier of noisy images, by t: what it has instead of a score."""
        return self.path / "accuracy.json"

    @property
    def metrics_csv(self) -> Path:
        """Losses and rates while training."""
        return self.path / "metrics.csv"

    @property
    def samples(self) -> Path:
        """Folder of the grids drawn while training."""
        return self.path / "samples"

    @property
    def logs(self) -> Path:
        """Folder of TensorBoard's and W&B's own files."""
        return self.path / "logs"

    @property
    def tracked_as(self) -> Path:
        """The id of this training's run at W&B."""
        return self.path / "wandb_id"

    def weights(self, name: str) -> Path:
        """The weights called `name`: "raw", "ema_0.999", ..."""
        return self.path / f"{name}.safetensors"

    @property
    def weight_names(self) -> list[str]:
        """Names of the weights that lie here, sorted."""
        return sorted(file.name.removesuffix(".safetensors") for file in self.path.glob("*.safetensors"))

    def weight_files(self) -> dict[str, Path]:
        """File of each of the weights. RunError if the raw ones, which every model has, are missing."""
        if "raw" not in self.weight_names:
            raise RunError(f"{self.path} holds no weights: raw.safetensors is missing")
        return {name: self.weights(name) for name in self.weight_names}

    @property
    def finished(self) -> bool:
        return self.training.is_file()

    def finish(self, steps: int, seconds: float, images: int, **more: Any) -> None:
        """Mark the training as finished; everything else must have been written."""
        write_json(self.training, {"steps": steps, "seconds": seconds, "images": images, **more})

    def clear(self) -> None:
        """Forget the training, the marker first, so that what is left is never taken for a finished model."""
        self.training.unlink(missing_ok=True)
        self.metrics_csv.unlink(missing_ok=True)
        self.tracked_as.unlink(missing_ok=True)
        self.accuracy.unlink(missing_ok=True)
        for pattern in ("*.ckpt", "*.safetensors", f"{self.samples.name}/*.png"):
            for file in self.path.glob(pattern):
                file.unlink()

    def read_training(self) -> dict[str, Any]:
        """What `finish` wrote; RunError if training has not finished."""
        if not self.finished:
            raise RunError(f"{self.path} holds no finished model: {self.training.name} is missing")
        return read_json(self.training)


@dataclass(frozen=True)
class RunDirectory:
    """One scored cell."""

    path: Path

    @property
    def metrics(self) -> Path:
        """Values, protocol and curves."""
        return self.path / "metrics.json"

    @property
    def samples_png(self) -> Path:
        return self.path / "samples.png"

    @property
    def interpolation_png(self) -> Path:
        """Ways from one sample to another through the latents."""
        return self.path / "interpolation.png"

    @property
    def reconstructions_png(self) -> Path:
        """Test images, each followed by what the model makes of its latent."""
        return self.path / "reconstructions.png"

    @property
    def config(self) -> Path:
        """The resolved config it was sampled and scored with."""
        return self.path / "config.yaml"

    @property
    def logs(self) -> Path:
        """Folder of W&B's own files."""
        return self.path / "logs"

    @property
    def tracked_as(self) -> Path:
        """The id of this score's run at W&B."""
        return self.path / "wandb_id"

    def write_metrics(self, content: Mapping[str, Any]) -> None:
        write_json(self.metrics, content)

    def read_metrics(self) -> dict[str, Any]:
        return read_json(self.metrics)


@dataclass(frozen=True)
class SweepDirectory:
    """Many cells: what was asked, and the report on them. The cells themselves lie in outputs/runs."""

    path: Path

    @property
    def sweep(self) -> Path:
        """The axes, and the model and run directory of each cell; written before anything starts."""
        return self.path / "sweep.json"

    @property
    def report(self) -> Path:
        """Folder of report.html, the tables and the figures."""
        return self.path / "report"

    @property
    def logs(self) -> Path:
        """Folder of W&B's own files."""
        return self.path / "logs"

    @property
    def tracked_as(self) -> Path:
        """The id of the reports' run at W&B."""
        return self.path / "wandb_id"

    @property
    def outputs(self) -> Path:
        """The outputs/ that this sweep, its models and its runs lie in."""
        return self.path.parent.parent

    def write_sweep(self, content: Mapping[str, Any]) -> None:
        write_json(self.sweep, content)

    def read_sweep(self) -> dict[str, Any]:
        return read_json(self.sweep)


# ---- places ---------------------------------------------------------------------------------------------------------


def model_directory(outputs: Path, data: str, model: str, fingerprint: str) -> ModelDirectory:
    """Where the model with this fingerprint lies or will lie."""
    return ModelDirectory(outputs / "models" / f"{data}-{model}-{fingerprint[:FINGERPRINT_LENGTH]}")


def run_directory(outputs: Path, run_id: str) -> RunDirectory:
    return RunDirectory(outputs / "runs" / run_id)


def sweep_directory(outputs: Path, name: str) -> SweepDirectory:
    return SweepDirectory(outputs / "sweeps" / name)


def newest_sweep(outputs: Path) -> SweepDirectory:
    """The sweep that was started last. RunError if there is none."""
    sweeps = [SweepDirectory(path.parent) for path in (outputs / "sweeps").glob("*/sweep.json")]
    if not sweeps:
        raise RunError(f"there is no sweep in {outputs / 'sweeps'}; `diffusion-lab train -m …` makes one")
    return max(sweeps, key=lambda sweep: sweep.sweep.stat().st_mtime_ns)


def cache_directory(outputs: Path) -> Path:
    return outputs / "cache"


def newest_model(outputs: Path) -> ModelDirectory:
    """The model whose training finished last. RunError if none has."""
    models = [ModelDirectory(path) for path in sorted((outputs / "models").glob("*")) if path.is_dir()]
    finished = [model for model in models if model.finished]
    if not finished:
        unfinished = f" ({len(models)} unfinished)" if models else ""
        raise RunError(
            f"there is no trained model in {outputs / 'models'}{unfinished}; `diffusion-lab train` makes one"
        )
    return max(finished, key=lambda model: model.training.stat().st_mtime_ns)
