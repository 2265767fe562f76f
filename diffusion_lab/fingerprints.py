"""What makes two trainings the same. Imports no torch.

The fingerprint is that of everything that shapes training and of nothing else: the training part of the resolved config, the
data set's identity, and a digest of the code that trains. So the same command finds its model again.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

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
            raise FileNotFoundError(f"there is no code at {path}")
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
