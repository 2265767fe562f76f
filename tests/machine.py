"""A stand-in for a machine with GPUs: what torch says about them."""

UUIDS = [f"GPU-{number}5d5ba0d-d33d-2b2c-524d-9e3d8d2b8a77" for number in range(8)]


def pretend(monkeypatch, num_gpus: int, restriction: str | None = None) -> None:
    """From now on this machine has GPUs. restriction: of CUDA_VISIBLE_DEVICES."""
    if restriction is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", restriction)
        num_gpus = len([*filter(None, restriction.split(","))])
    monkeypatch.setattr("torch.cuda.device_count", lambda: num_gpus)
