"""Every kind of condition: its values, the network that is told them, dropping, guidance, and data that mirror them."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from diffusion_lab.conditions import Classes, Condition, Field, Vector
from diffusion_lab.conditions.condition import has_field, null_of, records
from diffusion_lab.conditions.units import Units
from diffusion_lab.config import editing
from diffusion_lab.config.build import fill_in_facts
from diffusion_lab.config.drawn_conditions import DrawnConditions, One
from diffusion_lab.data.in_memory import InMemoryDataModule, Split
from diffusion_lab.diffusion import CosineSchedule, FixedSmall, PredictNoise, Simple, UniformTimesteps
from diffusion_lab.diffusion.condition_parts import as_conditions, left_out, parts
from diffusion_lab.metrics.bits_per_dim import BitsPerDim
from diffusion_lab.metrics.metric import Subject
from diffusion_lab.metrics.stored import silent
from diffusion_lab.models.condition_dropout import with_dropped_conditions
from diffusion_lab.models.diffusion import DiffusionModel
from diffusion_lab.models.optimization import Constant, Optimization
from diffusion_lab.networks import MLP, Transformer, UNet
from diffusion_lab.sampling import ClassifierFree, DDIMSampler, EvenSpacing, Unguided
from tests.models.stand_ins import woken

CONF = Path(__file__).parents[2] / "conf" / "condition"
KINDS = sorted(path.stem for path in CONF.glob("*.yaml"))
SEVERAL = ["classes", "field", "vector"]
SMALL = {"base_channels": 8, "channel_multipliers": (1,), "attention_resolutions": (), "head_channels": 8}


class Everything(InMemoryDataModule):
    """Images of 8 × 6 with a class, a vector and a field of half the height and four channels."""

    name, num_levels, num_classes, class_names = "everything", 256, 3, ("ant", "bee", "cat")

    def _read(self):
        generator = torch.Generator().manual_seed(0)
        x = torch.randint(0, 256, (96, 1, 8, 6), generator=generator).to(torch.uint8)
        beside = {
            "vector": torch.randn(96, 2, generator=generator),
            "field": torch.randn(96, 4, 4, 6, generator=generator),
        }
        return Split(x, torch.arange(96) % 3, beside).parted(1 / 4)


def data_of(*names, **options):
    data = Everything(batch_size=16, seed=0, **options)
    chosen = {}
    for name in names:
        chosen |= {key: instantiate(node) for key, node in (OmegaConf.load(CONF / f"{name}.yaml") or {}).items()}
    data.condition_on(chosen)
    data.prepare()
    return data


def unet(out_channels, **more):
    return UNet(1, out_channels, (8, 6), **SMALL, **more)


def transformer(out_channels, **more):
    """A JiT, which also has tokens with the condition."""
    small = {"width": 16, "num_blocks": 3, "num_heads": 2, "patch_size": 2}
    return Transformer(1, out_channels, (8, 6), **small, rotary=True, num_context=2, **more)


def model_of(data, guidance=Unguided(), dropout=0.1, of_network=unet):  # noqa: B008 - frozen
    torch.manual_seed(0)
    sizes = [condition.size for condition in data.conditions.values()]
    alone = len(sizes) == 1 and isinstance(sizes[0], int)

    def network(out_channels, **more):
        return woken(of_network(out_channels, **more))

    return DiffusionModel(
        data.shape,
        256,
        sizes[0] if alone else None,
        CosineSchedule(30),
        network,
        PredictNoise(),
        FixedSmall(),
        Simple(),
        UniformTimesteps(30),
        DDIMSampler(EvenSpacing(2)),
        guidance,
        Optimization(torch.optim.Adam, Constant),
        True,
        dropout,
        1,
        conditions=() if alone else sizes,
    ).eval()


@pytest.mark.parametrize("of_network", [unet, transformer])
@pytest.mark.parametrize("names", [*([kind] for kind in KINDS if kind != "none"), SEVERAL], ids=str)
def test_each_kind_is_told_and_left_out(names, of_network):
    data = data_of(*names)
    model = model_of(data, ClassifierFree(2.0), of_network=of_network)
    x_0, y = next(data.batches("train", 16))
    sizes = [condition.size for condition in data.conditions.values()]
    for part, size in zip(parts(y), sizes, strict=True):
        assert part.shape[1:] == (() if isinstance(size, int) else tuple(size))
    generator = model.generator()
    told = generator.sample(torch.arange(16), 0, y)
    other = generator.sample(torch.arange(16), 0, as_conditions([part.roll(1, 0) for part in parts(y)]))
    assert told.shape == x_0.shape
    assert not torch.equal(told, other)
    t = torch.full((16,), 3)
    nothing = left_out(y, model.reverse.null)
    torch.testing.assert_close(
        model.network(x_0, t, nothing), model.network(x_0, t)
    )  # no condition is the null of each
    assert not torch.equal(model.network(x_0, t, y), model.network(x_0, t))
    assert generator.nfe == 4


@pytest.mark.parametrize(("dropout", "share"), [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)])
def test_all_conditions_of_a_sample_are_left_out_together(dropout, share):
    data = data_of(*SEVERAL)
    model = model_of(data, dropout=dropout)
    model.global_batch = lambda local: (local, slice(0, local))  # as a trainer on one device has it
    _, y = next(data.batches("train", 64))
    model.random_stream = lambda stream, device: torch.Generator(device).manual_seed(stream)
    classes, field, vector = with_dropped_conditions(model, y, dropout, model.reverse.null)
    left = classes == 3
    assert torch.equal(left, vector.isnan().all(1))
    assert torch.equal(left, field.flatten(1).isnan().all(1))
    assert torch.equal(vector[~left], y[2][~left])
    assert abs(float(left.double().mean()) - share) < 0.2


def test_a_field_is_mirrored_with_its_image():
    plain, data = data_of(*SEVERAL), data_of(*SEVERAL, flip=True)
    x, (_, field, vector) = next(plain.batches("train", 72))
    turned = 0
    for (seen, (_, beside, numbers)), _ in zip(data.train_dataloader(), range(6), strict=False):
        for image, own, v in zip(seen, beside, numbers, strict=True):
            (i,) = (vector == v).all(1).nonzero().flatten().tolist()
            mirrored = not torch.equal(image, x[i])
            turned += mirrored
            assert torch.equal(image, x[i].flip(-1) if mirrored else x[i])
            assert torch.equal(own, field[i].flip(-1) if mirrored else field[i])
    assert 20 < turned < 76


def test_vectors_and_fields_are_normalised_and_units_come_back():
    data = data_of(*SEVERAL)
    y = next(data.batches("train", 72))[1]
    for (name, condition), part in zip(data.conditions.items(), parts(y), strict=True):
        raw = torch.cat([given[name] for _, given in [data.shown(72)]]) if name != "classes" else None
        if raw is not None:
            axes = [axis for axis in range(part.ndim) if axis != 1]
            torch.testing.assert_close(part.mean(axes), torch.zeros(part.shape[1]), atol=1e-6, rtol=0)
            torch.testing.assert_close(part.std(axes, correction=0), torch.ones(part.shape[1]))
            units = Units.of_condition(condition.record())
            torch.testing.assert_close(units.restored(condition.of(None, {name: raw})), raw)


def recorded(data):
    return records(data.conditions, lambda indices: data.y_of("test", indices), data.num_test)


def test_held_out_vectors_are_kept_where_they_are_few(monkeypatch):
    """With what stands beside them, so that samples need no data; not beside a field."""
    data = data_of("classes", "vector")
    kept = recorded(data)
    y, v = data.y_of("test", torch.arange(24))
    assert kept["classes"]["held_out"] == y.tolist()
    assert torch.equal(torch.tensor(kept["vector"]["held_out"]), v)
    assert all("held_out" not in record for record in recorded(data_of(*SEVERAL)).values())
    monkeypatch.setattr("diffusion_lab.conditions.condition._KEPT_NUMBERS", 71)
    assert "held_out" not in recorded(data)["vector"]


def test_what_takes_classes_only_refuses_a_vector():
    cfg = OmegaConf.create({"facts": {}, "model": {}, "data": {}, "condition": {"vector": {}}})
    said = r"condition=\[vector\]: this family takes classes or clusters only; .*model=diffusion"
    with pytest.raises(ValueError, match=said):
        fill_in_facts(cfg, data_of("vector"))


class Bright(Condition):
    """Whether an image is brighter than grey: classes that are found in the images."""

    size = 2

    def of(self, x, given):
        return (x.flatten(1).mean(1) > 0).long()


def test_classes_of_ones_own_are_drawn_as_often_as_they_occur():
    data = Everything(batch_size=16, seed=0)
    data.condition_on({"bright": Bright()})
    _, y = next(data.batches("train", 72))
    assert data.num_classes == 2
    assert data.clusters.counts.tolist() == y.bincount().tolist()
    assert data.training_identity != data.identity


class Left(Condition):
    """The left half of an image, computed from it."""

    def of(self, x, given):
        return x[..., : x.shape[-1] // 2]


def test_what_is_computed_of_an_image_is_of_the_image_upright():
    data = Everything(batch_size=16, seed=0, flip=True)
    data.condition_on({"left": Left()})
    for (x, y), _ in zip(data.train_dataloader(), range(3), strict=False):
        same = (y == x[..., :3]).flatten(1).all(1) | (y == x[..., 3:]).flatten(1).all(1)
        assert same.all()


def test_a_field_needs_the_axes_of_x():
    with pytest.raises(ValueError, match="points have no pixels"):
        MLP(2, 2, conditions=[[1, 4]])
    with pytest.raises(ValueError, match="equally many"):
        UNet(1, 1, 8, conditions=[[2, 3, 4, 5]], **SMALL)


def test_the_bits_of_clusters_count_beside_other_conditions():
    data = data_of("vector", "clusters")
    settings = SimpleNamespace(seed=0, unseen_split="test")
    subject = Subject(SimpleNamespace(generator=model_of(data).generator()), data, [], settings, silent)
    (found,) = BitsPerDim(num_images=8).likelihoods(subject)
    assert "for an image and its clusters given the other conditions" in found.kind
    assert 0 < found.parts["label"].min() <= found.parts["label"].max() < 8 / 48  # of 30 clusters of 72, in 48 pixels
    torch.testing.assert_close(sum(found.parts.values()), found.bits_per_dim)


def test_clusters_beside_other_conditions_are_not_interpolated(monkeypatch):
    """The other conditions of given images are not known, so none is told."""
    data = data_of("vector", "clusters")
    monkeypatch.setattr(editing, "trained_data", lambda saved: data)
    generator = model_of(data, dropout=0.0).generator()
    cfg = OmegaConf.create({"interpolate": {"images": [0, 1]}, "num_images": 3, "seed": 0})
    each = [
        One(name, c.size, [], c.shares, None, Units.of_condition(c.record())) for name, c in data.conditions.items()
    ]
    edit = editing.interpolation(cfg, generator, None, DrawnConditions(each, lambda: data))
    assert edit.draw(torch.arange(3), 0, None).shape == (3, 1, 8, 6)


@pytest.mark.parametrize("kind", [Classes, Vector, Field])
def test_data_without_it_are_refused(kind):
    class Bare(Everything):
        num_classes = None

        def _read(self):
            train, test = super()._read()
            return Split(train.values, None), Split(test.values, None)

    data = Bare(batch_size=4, seed=0)
    data.condition_on({"it": kind()})
    with pytest.raises(ValueError, match=f"condition={kind.__name__.lower()}.*: bare|everything has no"):
        data.prepare()


def test_the_y_of_a_number_is_that_of_the_image():
    data = data_of(*SEVERAL)
    _, y = next(data.batches("test", 24))
    again = data.y_of("test", torch.tensor([3, 25, 3]))
    for part, rows in zip(parts(y), parts(again), strict=True):
        assert torch.equal(rows, part[[3, 1, 3]])
    assert [null_of(size) == size if isinstance(size, int) else has_field(size) for size in (3, [4, 4, 6])] == [
        True,
        True,
    ]
