"""A stand-in for a machine with GPUs: an `nvidia-smi` on the PATH that lists them."""

import os
from pathlib import Path

UUIDS = [f"GPU-{number}5d5ba0d-d33d-2b2c-524d-9e3d8d2b8a77" for number in range(8)]
EIGHT = [f"GPU {index}: NVIDIA H100 80GB HBM3 (UUID: {uuid})" for index, uuid in enumerate(UUIDS)]


def pretend(monkeypatch, folder: Path, listed: list[str], restriction: str | None = None) -> None:
    """From now on `nvidia-smi -L` prints these lines, for this process and those that it starts."""
    stand_in = folder / "bin" / "nvidia-smi"
    stand_in.parent.mkdir(exist_ok=True)
    stand_in.write_text("#!/bin/sh\ncat <<END\n" + "\n".join(listed) + "\nEND\n")
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stand_in.parent}{os.pathsep}{os.environ['PATH']}")
    if restriction is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", restriction)
        monkeypatch.setattr("torch.cuda.device_count", lambda: len([*filter(None, restriction.split(","))]))
