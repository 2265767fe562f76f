"""What every part of the lab relies on when it calls the U-Net."""

import pytest
import torch
from torch import nn

from diffusion_lab.networks import UNet
from diffusion_lab.networks.dropout import keyed, set_keys
from tests.models.stand_ins import woken


def small_unet(**options):
    defaults = {
        "in_channels": 1,
        "out_channels": 2,
        "image_size": 8,
        "base_channels": 16,
        "channel_multipliers": (1, 2),
        "num_res_blocks": 1,
        "attention_resolutions": (4,),
        "head_channels": 16,
    }
    torch.manual_seed(0)
    return UNet(**{**defaults, **options})


def inputs(batch=3, channels=1, size=8):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(batch, channels, size, size, generator=generator), torch.tensor([0, 500, 999][:batch])


def test_first_output_is_exactly_zero():
    assert not small_unet()(*inputs()).any()


def test_every_parameter_has_a_gradient():
    network = woken(small_unet(num_classes=3))
    network(*inputs(), torch.tensor([0, 1, 2])).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_training_from_the_zero_start_reaches():
    """Training from the zero start reaches every parameter.

    Step 1 moves only the output layer; step 2 the blocks' last layers; step 3 everything.
    """
    network = small_unet()
    start = {name: parameter.clone() for name, parameter in network.named_parameters()}
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        (network(*inputs()) - 1).square().mean().backward()
        optimizer.step()
    assert all(parameter.grad.any() for parameter in network.parameters())
    assert not any(torch.equal(parameter, start[name]) for name, parameter in network.named_parameters())


def test_timesteps_and_labels_matter_row_by_row():
    network = woken(small_unet(num_classes=3))
    x_t, timesteps = inputs()
    y = torch.tensor([0, 1, 2])
    output = network(x_t, timesteps, y)
    later, relabelled = network(x_t, torch.tensor([1, 500, 999]), y), network(x_t, timesteps, torch.tensor([0, 1, 0]))
    assert not torch.allclose(output[0], later[0], atol=1e-4)
    torch.testing.assert_close(output[1:], later[1:])
    assert not torch.allclose(output[2], relabelled[2], atol=1e-4)
    torch.testing.assert_close(output[:2], relabelled[:2])


def test_no_label_is_the_null_class():
    network = woken(small_unet(num_classes=3))
    x_t, timesteps = inputs()
    torch.testing.assert_close(network(x_t, timesteps), network(x_t, timesteps, torch.full((3,), 3)))
    with pytest.raises(ValueError, match="has no classes"):
        small_unet()(x_t, timesteps, torch.zeros(3, dtype=torch.int64))


def test_held_channels_are_the_same_outputs():
    """Held channels are the same outputs and train their own weights only."""
    network = woken(small_unet(held_channels=1))
    output = network(*inputs())
    torch.testing.assert_close(output, woken(small_unet())(*inputs()))
    output[:, 1:].square().sum().backward()
    trained = {
        name for name, parameter in network.named_parameters() if parameter.grad is not None and parameter.grad.any()
    }
    assert trained == {"output.weight", "output.bias"}
    assert not network.output.weight.grad[:1].any()


def test_memory_format_of_the_input_changes_nothing():
    network = woken(small_unet(in_channels=3))
    x_t, timesteps = inputs(channels=3)
    torch.testing.assert_close(network(x_t, timesteps), network(x_t.to(memory_format=torch.channels_last), timesteps))


def test_activations_and_their_gradients_keep_channels():
    """Activations and their gradients keep channels innermost.

    One block that answers in NCHW would make every later convolution copy.
    """
    network, strided = woken(small_unet()), []
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Conv2d):

            def note(_, tensors, __=None, name=name):
                if tensors[0].shape[1] > 1 and tensors[0].stride(1) != 1:
                    strided.append(name)

            module.register_forward_pre_hook(note)
            module.register_full_backward_pre_hook(note)
    x_t, timesteps = inputs()
    (network(x_t.requires_grad_(), timesteps) ** 2).sum().backward()
    assert strided == []
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in network.parameters() if p.ndim == 4)


def test_activation_checkpointing_saves_memory_only():
    """The same gradients to the bit, with the dropout of a training, for a third of what is kept for the backward pass."""
    x_t, timesteps = inputs()
    gradients, kept = [], []
    for checkpointing in (False, True):
        network = woken(small_unet(dropout=0.3, activation_checkpointing=checkpointing)).train()
        set_keys(keyed(network), 5, torch.arange(len(x_t)))
        storages = {}

        def keep(tensor, storages=storages):
            storages.setdefault(tensor.untyped_storage()._cdata, tensor.untyped_storage())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            network(x_t, timesteps).square().sum().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
        weights = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
        kept.append(sum(storage.nbytes() for key, storage in storages.items() if key not in weights))
    assert all(map(torch.equal, *gradients))
    assert kept[1] < kept[0] / 3


def test_autocast_output_is_float32_and_close():
    network = woken(small_unet(num_classes=2))
    x_t, timesteps = inputs()
    expected = network(x_t, timesteps)
    with torch.autocast("cpu", torch.bfloat16):
        actual = network(x_t, timesteps)
    assert actual.dtype == torch.float32
    assert 0 < (actual - expected).norm() / expected.norm() < 0.05
    actual.square().sum().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in network.parameters())


def test_the_published_cifar_model_has_this_many_parameters():
    """Improved DDPM on CIFAR-10 with learned variance is a model of 52,546,438 parameters."""
    with torch.device("meta"):
        network = UNet(
            in_channels=3,
            out_channels=6,
            image_size=32,
            base_channels=128,
            channel_multipliers=(1, 2, 2, 2),
            num_res_blocks=3,
            attention_resolutions=(16, 8),
        )
    assert sum(parameter.numel() for parameter in network.parameters()) == 52_546_438


def test_fourier_features_let_the_first_layer_see_less():
    """Fourier features let the first layer see less than a level.

    Half a bin of 256 levels moves the input by 0.004 and the features by 2.
    """
    x_t, timesteps = inputs(1)
    by_network = []
    for periods in ((), (1,)):
        network = woken(small_unet(num_levels=256, fourier_periods=periods))
        by_network.append((network(x_t + 1 / 255, timesteps) - network(x_t, timesteps)).abs().mean())
    assert by_network[1] > 20 * by_network[0]


SMALL = {"base_channels": 8, "channel_multipliers": [1, 2]}


@pytest.mark.parametrize("resampling", [False, True])
@pytest.mark.parametrize("sides", [(4, 16), (16, 4), (7, 10), (1, 12), (12,), (7,), (4, 4, 4), (3, 6, 5)])
def test_the_unet_takes_one_to_three_axes(sides, resampling):
    attended = [-(-max(sides) // 2)]
    network = UNet(
        *(2, 4, list(sides)),
        attention_resolutions=attended,
        head_channels=8,
        residual_resampling=resampling,
        **SMALL,
    )
    assert sum(len(block) == 2 for blocks in network.encoder.down for block in blocks) == 2  # attention at one level
    nn.init.normal_(network.output.weight)
    out = network(torch.randn(3, 2, *sides), torch.arange(3))
    assert out.shape == (3, 4, *sides)
    assert out.isfinite().all()
    assert network.classifier()(torch.randn(3, 2, *sides), torch.arange(3)).shape == (3, 4)


@pytest.mark.parametrize("resampling", [False, True])
@pytest.mark.parametrize(
    ("sides", "padding"),
    [
        ((8,), "circular"),
        ((4, 8), "circular"),
        ((4, 8), ["zeros", "circular"]),
        ((4, 4, 8), ["circular", "zeros", "circular"]),
    ],
)
def test_a_circular_unet_commutes_with_shifts(sides, padding, resampling):
    """Shifts by 2, the stride of two levels, along a circular axis, and not along an axis with edges."""
    torch.manual_seed(0)
    network = UNet(
        *(1, 1, list(sides)),
        attention_resolutions=[],
        head_channels=8,
        padding=padding,
        residual_resampling=resampling,
        **SMALL,
    ).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        x, t = torch.randn(2, 1, *sides, dtype=torch.float64), torch.arange(2)
        for axis, kind in enumerate([padding] * len(sides) if padding == "circular" else padding, start=2):
            shifted, expected = network(x.roll(2, axis), t), network(x, t).roll(2, axis)
            assert torch.allclose(shifted, expected, atol=1e-5) == (kind == "circular")


def test_a_square_is_a_height_and_a_width_that_are_equal():
    x, t = torch.randn(2, 1, 8, 8), torch.arange(2)
    outputs = []
    for size in (8, [8, 8]):
        torch.manual_seed(0)
        network = UNet(1, 1, size, attention_resolutions=[4], head_channels=8, **SMALL)
        nn.init.ones_(network.output.weight)
        outputs.append(network(x, t))
    assert torch.equal(*outputs)


def test_held_outputs_in_patches_teach_the_last_layer_only():
    network = UNet(1, 2, 8, held_channels=1, patch_size=2, attention_resolutions=[], head_channels=8, **SMALL)
    nn.init.normal_(network.output.weight)
    network(torch.randn(1, 1, 8, 8), torch.zeros(1).long())[:, 1].sum().backward()
    assert network.output.weight.grad.abs().sum() > 0
    assert not network.encoder.input.weight.grad.any()
