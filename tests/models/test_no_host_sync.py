"""No step makes the host wait for a GPU: of training, of every sampler, of every guidance, for every family."""

import sys
from dataclasses import replace

import pytest
import torch
from hydra.utils import instantiate
from lightning import Callback
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from diffusion_lab.conf_dir import CONF
from diffusion_lab.data.digits import Digits
from diffusion_lab.data.order import Batches
from diffusion_lab.models import muon
from diffusion_lab.sampling import Autoguidance, ClassifierFree, ClassifierGuidance, Worse
from diffusion_lab.training.ema import EMA
from diffusion_lab.training.finite import SkipNotFinite
from diffusion_lab.training.monitor import Monitor

from .on_device import DEVICE, WaitsForDeviceError, device, moved
from .stand_ins import configured, quiet_trainer

pytestmark = pytest.mark.usefixtures("hydra_in_less_time")
CONTINUOUS = ["objective=vlb_continuous", "decoder=levels", "timesteps=low_discrepancy", "variance=fixed_small"]
FLOW_MAP = ["objective=flow_map", "variance=fixed_small"]
WAYS = {  # on points, whose networks are small
    "all that a table offers": ["diffusion", "objective=hybrid", "timesteps=loss_aware", "prediction=edm"],
    "the bound, in logs": ["diffusion", "objective=vlb", "decoder=levels", "optimizer=adamw"],
    "a learned schedule": ["diffusion", "schedule=learned", *CONTINUOUS],
    "t where they count": ["diffusion", "schedule=rectified", "timesteps=logit_normal", "variance=fixed_small"],
    "real t of a table": ["diffusion", "timesteps=log_normal", "timesteps.real=true", "variance=fixed_small"],
    "a table's integral": ["diffusion", "schedule=linear", *CONTINUOUS],
    "a flow map, by two evaluations": ["diffusion", *FLOW_MAP, "objective/residual=progressive", "schedule=rectified"],
    "a flow map, by derivatives": ["diffusion", *FLOW_MAP, "objective/residual=lagrangian", "network.dropout=0.1"],
    "a penalty": ["gan", "regularizer=r1", "regularizer.every=1", "model.max_grad_norm=1"],
    "spectral norm": ["gan", "regularizer=none", "adversarial_loss=hinge"],
    "free bits": ["vae", "model.free_bits=0.1", "prior=standard_normal"],
    "a learned prior": ["vae", "prior=spline_flow"],
}
QUICK = "a penalty", "ddpm", "heun", "classifier-free", "classifier"
T = {"diffusion": ["schedule.num_timesteps=60"], "noisy_classifier": ["schedule.num_timesteps=60"]}
SMALL = {  # fewer of the same layers
    "diffusion": ["network.channel_multipliers=[1]", "network.attention_resolutions=[8]", "network.head_channels=32"],
    "flow": ["network.num_steps=1", "network.coarse_steps=1"],
    "vae": ["network.channel_multipliers=[1]", "prior=standard_normal"],
}
SMALL["noisy_classifier"] = SMALL["diffusion"]
JIT = [
    "network=diffusion/jit",
    "network.width=16",
    "network.num_heads=2",
    "network.num_blocks=3",
    "network.dropout=0.1",
]


def choices(group):
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def built(family, *options, data="digits"):
    options = [f"model={family}", f"data={data}", *T.get(family, []), *options]
    cfg = configured(*options, shape=(1, 8, 8) if data == "digits" else (2,), num_levels=17, num_classes=10)
    torch.manual_seed(0)
    return known(instantiate(cfg.model))


def known(model):
    """What the host asks the device once, or once in many batches, it has asked."""
    if hasattr(model.network, "initialised"):
        model.network.initialised.fill_(True)
        assert model.network.has_started
    if getattr(model, "trained_schedule", None) is not None:
        model.schedule.keep_first_std()

        def read() -> None:
            assert model.batches_trained == 0, "the noise at t = 1 is read again within 20 batches"

        object.__setattr__(model.schedule, "keep_first_std", read)  # numbers of a fake device cannot be read
    return model


class Elsewhere(SingleDeviceStrategy):
    """Lightning's for one GPU, on DEVICE, where the model is already and stays."""

    def __init__(self):
        super().__init__(DEVICE, CPUAccelerator())

    def setup_environment(self):
        pass

    def model_to_device(self):
        pass

    def teardown(self):
        pass


class EnoughError(Exception):
    """Nothing is left to see."""


class Watched(Callback):
    """Tables come to the device in the first batch; after that nothing does."""

    def __init__(self, separate, free, watched):
        self.separate, self.free, self.last = separate, free, free + watched - 1

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.separate.strict = batch_idx >= self.free

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx == self.last:
            raise EnoughError


def train(monkeypatch, model, free=1, watched=1, log_every_n_steps=1000, data=None):
    # Whether Adam's count of steps lies on the device is asked of a list of devices with values.
    adam = sys.modules["torch.optim.adam"]
    monkeypatch.setattr(adam, "_get_capturable_supported_devices", lambda *args, **kwargs: [DEVICE.type])
    with device(monkeypatch) as separate:
        separate.strict = False
        # The last one sees the first hook of a batch last, and its last hook last.
        callbacks = SkipNotFinite(), EMA([0.9]), Monitor(), Watched(separate, free, watched)
        clip = 1.0 if model.automatic_optimization else None
        options = {"strategy": Elsewhere(), "gradient_clip_val": clip, "log_every_n_steps": log_every_n_steps}
        trainer = quiet_trainer(99, *callbacks, accelerator="auto", **options)
        batch = torch.zeros(4, *model.shape, device=DEVICE), torch.zeros(4, dtype=torch.int64, device=DEVICE)
        batches = Batches(lambda: iter([batch] * 9))
        if data is not None:
            data.trainer = trainer
            batches = data.train_dataloader()
        trainer.fit(moved(model), batches)


@pytest.mark.thorough
@pytest.mark.parametrize("family", [family for family in choices("model") if family != "diffusion"])
def test_a_training_step_of_a_family_waits_for_nothing(monkeypatch, family):
    with pytest.raises(EnoughError):
        train(monkeypatch, built(family, *SMALL.get(family, [])))


@pytest.mark.parametrize(
    "way", [way if way in QUICK else pytest.param(way, marks=pytest.mark.thorough) for way in WAYS]
)
def test_a_training_step_waits_for_nothing(monkeypatch, way):
    family, *options = WAYS[way]
    with pytest.raises(EnoughError):
        train(monkeypatch, built(family, *options, data="mixture"))


@pytest.mark.parametrize(
    "options", [SMALL["diffusion"], pytest.param(JIT, marks=pytest.mark.thorough)], ids=["unet", "jit"]
)
@pytest.mark.thorough
def test_diffusion_on_data_of_the_device_waits_for_nothing(monkeypatch, options):
    """With Muon in bf16, as on a GPU."""
    whole, data = muon.orthogonalized, Digits(4, 0, flip=True)
    monkeypatch.setattr(muon, "orthogonalized", lambda matrices, dtype: whole(matrices, torch.bfloat16))
    data.prepare()
    data.hold_on_device(True)
    with pytest.raises(EnoughError):
        train(monkeypatch, built("diffusion", *options), watched=2, data=data)
    assert data._held.x.device == DEVICE


def test_counts_are_read_when_they_are_logged(monkeypatch):
    with pytest.raises(DataDependentOutputException):
        train(monkeypatch, built("vae", "prior=standard_normal", data="mixture"), log_every_n_steps=1)


WAITS = {
    "a number": lambda x: x[0].item(),
    "a mask": lambda x: x[x > 0],
    "a mask to write to": lambda x: x.clone().index_put_((x > 0,), x[:1]),
    "a copy to the host": lambda x: x.cpu(),
    "a copy from pinned memory that is waited for": lambda x: torch.zeros(3).pin_memory().to(x.device),
    "a number from the host": lambda x: torch.tensor(2.0, device=x.device),
    "places that the host knows": lambda x: x[torch.tensor([2, 1])],
    "an inverse that is checked": lambda x: torch.linalg.inv(torch.eye(2, device=x.device)),
}
FOUND = (WaitsForDeviceError, DataDependentOutputException, DynamicOutputShapeException)


@pytest.mark.parametrize("wait", WAITS)
def test_a_wait_is_found(monkeypatch, wait):
    with device(monkeypatch):
        x = torch.zeros(3, device=DEVICE)
        assert (2 * x + 1).sum().shape == torch.ones(2).sum().shape == ()
        with pytest.raises(FOUND):
            WAITS[wait](x)


def walk(monkeypatch, model, guide=None):
    """A chain of four steps; the first brings tables to the device. guide: of a generator on the device, its guidance."""
    with device(monkeypatch) as separate, torch.no_grad():
        separate.strict = False
        generator = moved(model).generator()
        if guide is not None:
            generator = replace(generator, guidance=guide(generator))
        y = torch.ones(2, dtype=torch.int64, device=DEVICE)
        states = generator.trajectory(torch.arange(2, device=DEVICE), 0, y)
        for number, x in enumerate(states):
            assert x.device == DEVICE
            separate.strict = number > 0
    assert number > 2


@pytest.mark.parametrize(
    "sampler",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.thorough) for name in choices("sampler")],
)
def test_a_step_of_a_sampler_waits_for_nothing(monkeypatch, sampler):
    steps = ["schedule.num_timesteps=4"] if sampler == "ddpm" else ["sampler.spacing.num_steps=4"]
    of_two_times = FLOW_MAP if sampler == "flow_map" else []
    walk(monkeypatch, built("diffusion", *of_two_times, f"sampler={sampler}", *steps, data="mixture"))


def classifier():
    return built("noisy_classifier", data="mixture")


GUIDANCES = {
    "classifier-free": lambda drawn: ClassifierFree(2.0),
    "classifier-free, in t": lambda drawn: ClassifierFree(2.0, interval=[10, 40]),
    "classifier-free, by the null class": lambda drawn: ClassifierFree(0.0, log_snr_interval=[-2, 2]),
    "classifier-free, away from a worse model": lambda drawn: ClassifierFree(2.0, worse=Worse(reverse=drawn.reverse)),
    "autoguidance": lambda drawn: Autoguidance(Worse(reverse=drawn.reverse), log_snr_interval=[-2, 2]),
    "classifier": lambda drawn: ClassifierGuidance(moved(classifier()), 10, interval=[10, 40]),
}


@pytest.mark.parametrize(
    "guidance", [name if name in QUICK else pytest.param(name, marks=pytest.mark.thorough) for name in GUIDANCES]
)
def test_a_guided_step_waits_for_nothing(monkeypatch, guidance):
    model = built("diffusion", "sampler.spacing.num_steps=4", data="mixture")
    walk(monkeypatch, model, GUIDANCES[guidance])


@pytest.mark.parametrize("family", [family for family in choices("model") if family not in T])
def test_a_sample_in_one_step_waits_for_nothing(monkeypatch, family):
    model = built(family, *SMALL.get(family, []))
    with device(monkeypatch) as separate, torch.no_grad():
        separate.strict = False
        generator = moved(model).generator()
        for strict in (False, True):
            separate.strict = strict
            x = generator.sample(torch.arange(2, device=DEVICE), 0, torch.ones(2, dtype=torch.int64, device=DEVICE))
            assert x.shape == (2, *model.shape)
