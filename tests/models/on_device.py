"""A device that nobody has, on which nothing may be looked at: what would make the host wait for a GPU is an error.

Tensors of the host are real. Those of the device are fake: they have shapes and no values, so every operation that must know a
value raises. Fake tensors let copies between devices pass, so these are refused here.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# A CUDA tensor wants a build for CUDA as soon as a gradient flows. What is asked here differs between no two devices.
DEVICE = torch.device("meta")
ATEN = torch.ops.aten
# Those that read an answer of the device beneath what a mode can see.
_WAITING = {ATEN._linalg_check_errors.default, ATEN.is_nonzero.default, ATEN.equal.default}
_PUT = {ATEN.index_put.default, ATEN.index_put_.default, ATEN._index_put_impl_.default}


class WaitsForDeviceError(AssertionError):
    """A host that would wait for a GPU."""


class _Separate(TorchDispatchMode):
    """Real on the host, fake on the device; nothing goes from one to the other while `strict`."""

    def __init__(self) -> None:
        super().__init__()
        self.fake, self.strict = FakeTensorMode(allow_non_fake_inputs=True), True

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        places = {tensor.device for tensor in tensors} | (
            {torch.device(kwargs["device"])} if kwargs.get("device") else set()
        )
        if places <= {torch.device("cpu")}:
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        if "generator" in kwargs:  # a fake number needs none, and one of the device does not exist
            kwargs["generator"] = None
        if self.strict:
            copied = func is ATEN._to_copy.default and kwargs.get("non_blocking") and hasattr(args[0], "is_pinned_here")
            # A sum with the zero tangent of a number finds its shape on the device "meta", whatever the device.
            shaped = func is ATEN.to.dtype_layout and args[0]._is_zerotensor()
            if len(places) > 1 and not (copied or shaped):
                raise WaitsForDeviceError(f"{func} takes from {' and '.join(map(str, places))}")
            indices = args[1] if func in _PUT else ()
            if func in _WAITING or any(index is not None and index.dtype == torch.bool for index in indices):
                raise WaitsForDeviceError(f"{func} reads what the device has")
        with self.fake:
            return func(*args, **kwargs)


class _Literal(TorchFunctionMode):
    """torch.tensor(3.0, device=…) is written on the host and copied."""

    def __init__(self, separate: _Separate) -> None:
        super().__init__()
        self.separate = separate

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        written = func in (torch.tensor, torch.as_tensor) and not isinstance(args[0], torch.Tensor)
        if self.separate.strict and written and torch.device(kwargs.get("device") or "cpu") == DEVICE:
            raise WaitsForDeviceError(f"{func.__name__}({args[0]}, device=…) is a copy from the host")
        return func(*args, **kwargs)


def _pinned(tensor: torch.Tensor) -> torch.Tensor:
    """In memory from which a device copies while the host goes on, which only a GPU can give."""
    tensor = tensor.clone()
    tensor.is_pinned_here = True
    return tensor


class _Generator(torch.Generator):
    """Of a device that has none: only asked where it is."""

    def __new__(cls, device="cpu"):
        generator = super().__new__(cls)
        generator.place = torch.device(device)
        return generator

    @property
    def device(self):
        return self.place


@contextlib.contextmanager
def device(monkeypatch) -> Iterator[_Separate]:
    """Inside the block there is DEVICE; `.strict = False` lets copies pass."""
    autocast = torch.autocast
    monkeypatch.setattr(torch, "Generator", _Generator)
    monkeypatch.setattr(torch, "autocast", lambda _, **options: autocast("cpu", **options))
    monkeypatch.setattr(torch.Tensor, "pin_memory", _pinned)
    separate = _Separate()
    with separate, _Literal(separate):
        yield separate


def moved(module: torch.nn.Module) -> torch.nn.Module:
    """A module, brought to DEVICE."""
    return module._apply(lambda tensor: tensor.to(DEVICE))
