import pytest
import torch

from diffusion_lab.networks import UNet
from diffusion_lab.networks.blocks import zero
from diffusion_lab.networks.classifier import AttentionPool
from tests.models.stand_ins import woken


def unet(out_channels=5, **options):
    torch.manual_seed(0)
    sizes = {"base_channels": 8, "channel_multipliers": (1, 2), "attention_resolutions": (4,), "head_channels": 8}
    return UNet(1, out_channels, 8, **{"num_res_blocks": 1, **sizes, **options})


def test_a_classifier_is_the_way_down_without_the_way_up():
    network = unet()
    classifier = network.classifier()
    assert classifier.encoder is network.encoder
    assert not any(name.startswith(("up", "output_norm")) for name, _ in classifier.named_parameters())
    logits = classifier(torch.randn(3, 1, 8, 8), torch.tensor([0, 5, 9]))
    assert logits.shape == (3, 5)
    assert logits.dtype == torch.float32


def test_the_classifier_hears_pixels():
    """The classifier hears pixels and time and has a slope in x."""
    classifier = woken(unet().classifier()).requires_grad_(False).eval()
    x, t = torch.randn(2, 1, 8, 8, requires_grad=True), torch.tensor([3, 3])
    logits = classifier(x, t)
    assert not torch.allclose(logits, classifier(x, t + 400))
    (slope,) = torch.autograd.grad(logits[0, 1], x)
    assert slope[0].abs().min() > 0
    assert not slope[1].any()  # a sample does not hear of its batch
    step = 1e-2 * torch.nn.functional.normalize(slope.flatten(), dim=0).view_as(slope)
    up, down = (float(classifier(x.detach() + sign * step, t)[0, 1]) for sign in (1, -1))
    assert (up - down) / 2e-2 == pytest.approx(float(slope.norm()), rel=0.05)


def test_pooling_looks_where_the_query_points():
    """Pooling looks where the query points and not in an order."""
    torch.manual_seed(0)
    pool = AttentionPool(16, 8)
    h = torch.randn(2, 16, 3, 3)
    mixed = h.flatten(2)[:, :, torch.randperm(9)].unflatten(2, (3, 3))
    torch.testing.assert_close(pool(mixed), pool(h), rtol=0, atol=1e-5)
    zero(pool.query)  # all keys alike: the mean of all values
    pixels = pool.norm(h).flatten(2).transpose(1, 2)
    values = pool.key_value(torch.cat([pixels.mean(1, keepdim=True), pixels], 1))[..., 16:]
    torch.testing.assert_close(pool(h), pool.project(values.mean(1)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("pool_positions", [True, False])
def test_pooling_has_heads_of_head_channels(pool_positions):
    """Pooling has heads of head channels whatever the number of heads elsewhere."""
    assert unet(num_heads=2, head_channels=4, pool_positions=pool_positions).classifier().pool.num_heads == 4
    with pytest.raises(ValueError, match="head_channels=64 must divide the 16 channels"):
        unet(num_heads=2, head_channels=64, pool_positions=pool_positions).classifier()


def test_recomputation_changes_no_gradient_of_the_encoder():
    gradients = []
    for recompute in (False, True):
        classifier = woken(unet(activation_checkpointing=recompute).classifier())
        classifier(torch.ones(2, 1, 8, 8), torch.tensor([1, 2])).sum().backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in classifier.parameters()]))
    assert torch.equal(*gradients)


def test_a_classifier_of_patches_has_as_many_logits():
    network = unet(4, patch_size=2)
    assert network.classifier()(torch.randn(3, 1, 8, 8), torch.arange(3)).shape == (3, 4)
    assert network(torch.randn(3, 1, 8, 8), torch.arange(3)).shape == (3, 4, 8, 8)
