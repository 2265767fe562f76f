import copy

import pytest
import torch
from hydra.utils import instantiate
from torch import nn

from diffusion_lab.models.muon import Muon, orthogonalized

from .stand_ins import configured

pytestmark = pytest.mark.usefixtures("hydra_in_less_time")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.input, self.hidden, self.output = nn.Linear(3, 8), nn.Linear(8, 4), nn.Linear(4, 1)
        self.conv = nn.Conv2d(2, 6, 3)

    def loss(self, k):
        generator = torch.Generator().manual_seed(k)
        x, image = torch.randn(16, 3, generator=generator), torch.randn(2, 2, 5, 5, generator=generator)
        return self.output(self.hidden(self.input(x)).tanh()).square().mean() + self.conv(image).square().mean()


def trained(net, optimizer, steps):
    for k in steps:
        optimizer.zero_grad()
        net.loss(k).backward()
        optimizer.step()
    return net.state_dict()


@pytest.mark.parametrize("shape", [(8, 8), (16, 144), (144, 16)])
def test_products_in_bfloat16_are_near(shape):
    """A GPU's products. A matrix of rank 2 has directions of rounding only, where the two differ, but neither diverges."""
    torch.manual_seed(0)
    full, flat = torch.randn(3, *shape), torch.randn(3, shape[0], 2) @ torch.randn(3, 2, shape[1])
    exact, rounded = orthogonalized(full), orthogonalized(full, torch.bfloat16)
    assert rounded.dtype == torch.float32
    assert float((exact - rounded).norm() / exact.norm()) < 0.03
    assert float(torch.linalg.svdvals(orthogonalized(flat, torch.bfloat16)).max()) < 1.3


@pytest.mark.parametrize("shape", [(12, 40), (40, 12)])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-4), (torch.bfloat16, 0.04)])
def test_it_is_the_reference_update(dtype, error, shape):
    """X ← a·X + (b·A + c·A²)·X with A = X·Xᵀ, five times, as Jordan et al. write it; here in float64."""
    torch.manual_seed(0)
    matrices = torch.randn(3, *shape) * torch.tensor([1e-3, 1.0, 1e3])[:, None, None]
    for matrix, found in zip(matrices.double(), orthogonalized(matrices, dtype), strict=True):
        x = matrix / matrix.norm()
        for _ in range(5):
            gram = x @ x.T
            x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
        assert float((found - x).norm() / x.norm()) < error


def test_a_loaded_state_goes_on_to_the_bit():
    whole, torn = Net(), Net()
    trained(whole, Muon(whole.named_parameters()), range(6))
    first = Muon(torn.named_parameters())
    trained(torn, first, range(3))
    second = Muon(torn.named_parameters())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    torch.testing.assert_close(trained(torn, second, range(3, 6)), whole.state_dict(), rtol=0, atol=0)


def test_the_first_step_of_a_matrix():
    """Has the given length, and a convolution is a matrix."""
    net = Net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    trained(net, Muon(net.named_parameters(), lr=0.01, momentum=0.0), range(1))
    for name, shape in (("hidden.weight", (4, 8)), ("conv.weight", (6, 18))):
        move = (net.state_dict()[name] - before[name]).reshape(shape)
        gradient = net.get_parameter(name).grad.reshape(shape)
        torch.testing.assert_close(move, -0.01 * orthogonalized(gradient[None])[0], rtol=1e-4, atol=1e-7)
    tall = nn.Linear(2, 8, bias=False)
    start = tall.weight.detach().clone()
    tall.weight.grad = torch.randn(8, 2)
    Muon(tall.named_parameters(), lr=0.01, momentum=0.0).step()
    expected = -0.02 * orthogonalized(tall.weight.grad[None])[0]  # √(8/2)
    torch.testing.assert_close(tall.weight.detach() - start, expected, rtol=1e-4, atol=1e-7)


def test_ends_and_vectors_are_moved_by_adamw():
    ours, theirs = Net(), Net()
    rest = [name for name, p in ours.named_parameters() if p.ndim == 1 or name.split(".")[0] in ("input", "output")]
    muon = Muon(ours.named_parameters(), lr=0.0, adamw_lr=3e-3, weight_decay=0.1)
    for name, parameter in theirs.named_parameters():
        parameter.requires_grad_(name in rest)
    adamw = torch.optim.AdamW([theirs.get_parameter(n) for n in rest], lr=3e-3, betas=(0.9, 0.99), weight_decay=0.1)
    torch.testing.assert_close(trained(ours, muon, range(5)), trained(theirs, adamw, range(5)), rtol=0, atol=0)


@pytest.mark.parametrize("family", ["diffusion", "gan", "vae", "flow"])
@pytest.mark.parametrize("data", ["fashion_mnist", "two_moons"])
def test_no_embedding_end_or_triangle_is_muons(family, data):
    facts = {"shape": (1, 28, 28), "num_levels": 256} if data == "fashion_mnist" else {"shape": (2,)}
    options = f"model={family}", f"data={data}", "condition=classes"
    model = instantiate(configured(*options, num_classes=10, **facts).model)
    matrices = {id(parameter) for parameter in Muon(model.named_parameters()).param_groups[1]["params"]}
    assert matrices
    ends = {1, 2, 10, 11}  # widths of pixels, of points and of classes
    for name, parameter in model.named_parameters():
        if id(parameter) in matrices:
            assert not ends & {parameter.shape[0], parameter.shape[1]}, name
            assert not name.endswith((".lower", ".upper"))
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            assert id(module.weight) not in matrices
