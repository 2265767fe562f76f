"""What the losses are worth at the best discriminator, and what the penalties cost where the slope is known."""

import math

import pytest
import torch
from torch import nn

from diffusion_lab.families.gan.adversarial import (
    R1,
    GradientPenalty,
    Hinge,
    NonSaturating,
    NoRegularizer,
    Wasserstein,
    squared_slope,
)

# Two distributions on three points, in sixteenths: every sample of 16 with these frequencies has them exactly.
P, Q = torch.tensor([2, 6, 8]), torch.tensor([8, 4, 4])
p, q = P.double() / 16, Q.double() / 16


def drawn(table):
    """The values of a table at 16 real and 16 fake points."""
    return table.repeat_interleave(P), table.repeat_interleave(Q)


def divergence(a, b):
    return float((a * (a / b).log()).sum())


def best(loss, start):
    """The table that minimises the mean of L_D, found by Newton-free descent from `start`."""
    table = start.clone().double().requires_grad_()
    optimizer = torch.optim.LBFGS([table], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-14)

    def closure():
        optimizer.zero_grad()
        value = loss.discriminator(*drawn(table)).mean()
        value.backward()
        return value

    optimizer.step(closure)
    return table.detach()


def test_the_best_discriminator_tells_jensen_shannon():
    m = (p + q) / 2
    jensen_shannon = (divergence(p, m) + divergence(q, m)) / 2
    loss, ratio = NonSaturating(), (p / q).log()
    assert float(loss.discriminator(*drawn(ratio)).mean()) == pytest.approx(math.log(4) - 2 * jensen_shannon, rel=1e-12)
    torch.testing.assert_close(best(loss, torch.zeros(3)), ratio, rtol=1e-5, atol=1e-6)
    guess = torch.zeros(3, dtype=torch.float64)
    assert float(loss.discriminator(*drawn(guess)).mean()) == pytest.approx(math.log(4), rel=1e-12)


def test_the_best_hinge_discriminator_tells_total_variation():
    total_variation = float((p - q).abs().sum() / 2)
    value = float(Hinge().discriminator(*drawn((p - q).sign())).mean())
    assert value == pytest.approx(2 - 2 * total_variation, rel=1e-12)
    for other in (torch.zeros(3), (p / q).log(), 2 * (p - q).sign()):
        assert float(Hinge().discriminator(*drawn(other.double())).mean()) > value


def test_the_wasserstein_critic_of_slope_one_tells_the_shift():
    """Of two equal distributions on the line, one 0.7 further, by D(x) = −x."""
    x = torch.randn(50, dtype=torch.float64)
    assert float(-Wasserstein().discriminator(-x, -(x + 0.7)).mean()) == pytest.approx(0.7, rel=1e-12)


@pytest.mark.parametrize(
    ("loss", "by_real", "by_fake", "by_generator"),
    [
        # D(x) = −2, ½, 2 and D(G(z)) = −2, ½, 2: inside the margin or beyond it.
        (Hinge(), [-1, -1, 0], [0, 1, 1], [-1, -1, -1]),
        (Wasserstein(), [-1, -1, -1], [1, 1, 1], [-1, -1, -1]),
        (
            NonSaturating(),
            [-1 / (1 + math.exp(d)) for d in (-2, 0.5, 2)],
            [1 / (1 + math.exp(-d)) for d in (-2, 0.5, 2)],
            [-1 / (1 + math.exp(d)) for d in (-2, 0.5, 2)],
        ),
    ],
    ids=["hinge", "wasserstein", "non-saturating"],
)
def test_gradients(loss, by_real, by_fake, by_generator):
    real, fake, judged = (torch.tensor([-2.0, 0.5, 2.0], dtype=torch.float64, requires_grad=True) for _ in range(3))
    loss.discriminator(real, fake).sum().backward()
    loss.generator(judged).sum().backward()
    for got, expected in ((real, by_real), (fake, by_fake), (judged, by_generator)):
        torch.testing.assert_close(got.grad, torch.tensor(expected, dtype=torch.float64))


def test_a_generator_that_is_seen_through_still_learns():
    """Non-saturating: at D(G(z)) = −20 the slope is −1, where log(1 − σ(D)) has 2·10⁻⁹."""
    fake = torch.tensor([-20.0], requires_grad=True)
    NonSaturating().generator(fake).sum().backward()
    assert float(fake.grad) == pytest.approx(-1, abs=1e-6)


def test_accuracy_is_counted_from_the_threshold_of_the_loss():
    real, fake = torch.tensor([1.0, 2.0, -1.0, 3.0]), torch.tensor([-1.0, 1.0, -2.0, -3.0])
    assert [float(share) for share in NonSaturating().accuracy(real, fake)] == [0.75, 0.75]
    assert [float(share) for share in Hinge().accuracy(real + 10, fake + 10)] == [1, 0]
    shifted, plain = (Wasserstein().accuracy(real + c, fake + c) for c in (10, 0))
    assert shifted == plain


class Linear(nn.Module):
    """D(x) = w·x, whose slope is w everywhere."""

    def __init__(self, w):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w, dtype=torch.float64))

    def forward(self, x):
        return x.flatten(1) @ self.w


REAL, FAKE = (torch.randn(5, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
U = torch.linspace(0, 1, 5, dtype=torch.float64)


def test_r1_of_a_linear_discriminator_and_its_gradient():
    critic = Linear([1.0, -2.0, 0.5, 3.0])
    penalty = R1(gamma=0.3)(critic, REAL, FAKE, U, batch=0)
    square = 1 + 4 + 0.25 + 9
    torch.testing.assert_close(penalty, torch.full((5,), 0.3 / 2 * square, dtype=torch.float64))
    penalty.mean().backward()
    torch.testing.assert_close(critic.w.grad, 0.3 * critic.w.detach())  # γ·w


def test_r1_looks_at_real_images_and_at_nothing_else():
    """D(x) = ‖x‖²/2 has the slope x."""
    penalty = R1(gamma=2.0)(lambda x: x.flatten(1).square().sum(1) / 2, REAL, FAKE, U, batch=0)
    torch.testing.assert_close(penalty, REAL.flatten(1).square().sum(1))


def test_a_lazy_penalty_is_the_plain_one_in_the_mean():
    critic = Linear([1.0, 2.0, 3.0, 4.0])
    plain, lazy = R1(gamma=0.5), R1(gamma=0.5, every=4)
    due = [lazy(critic, REAL, FAKE, U, batch) for batch in range(40)]
    assert [batch for batch, penalty in enumerate(due) if penalty is not None] == list(range(0, 40, 4))
    mean = sum(penalty.mean() for penalty in due if penalty is not None) / 40
    torch.testing.assert_close(mean, plain(critic, REAL, FAKE, U, 0).mean())


def test_the_gradient_penalty_grows_on_both_sides_of_slope_1():
    for length, expected in ((1.0, 0.0), (3.0, 40.0), (0.5, 2.5), (0.0, 10.0)):
        critic = Linear([0.6 * length, 0.0, 0.0, 0.8 * length])
        penalty = GradientPenalty(weight=10.0)(critic, REAL, FAKE, U, batch=0)
        torch.testing.assert_close(penalty, torch.full((5,), expected, dtype=torch.float64), rtol=1e-5, atol=1e-5)
        penalty.sum().backward()
        assert critic.w.grad.isfinite().all()


def test_the_gradient_penalty_looks_between_real_and_fake():
    points = GradientPenalty().where(REAL, FAKE, U)
    torch.testing.assert_close(points[0], FAKE[0])
    torch.testing.assert_close(points[4], REAL[4])
    torch.testing.assert_close(points[1], 0.25 * REAL[1] + 0.75 * FAKE[1])


def test_no_regularizer_asks_the_discriminator_nothing():
    assert NoRegularizer()(lambda x: pytest.fail("it was asked"), REAL, FAKE, U, batch=0) is None


def test_the_slope_is_of_each_row_and_leaves_points_alone():
    slopes = squared_slope(lambda x: torch.arange(5) * x.flatten(1).sum(1), REAL)
    torch.testing.assert_close(slopes, 4 * torch.arange(5, dtype=torch.float64) ** 2)
    assert not REAL.requires_grad


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: R1(gamma=0.0), r"regularizer\.gamma=0\.0 must be above 0"),
        (lambda: GradientPenalty(weight=-1.0), r"regularizer\.weight=-1\.0 must be above 0"),
        (lambda: R1(every=0), r"regularizer\.every=0 must be a whole number"),
    ],
)
def test_what_is_no_penalty_is_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_a_loss_says_what_it_needs_a_regularizer_gives():
    assert [loss.needs_bounded_slope for loss in (NonSaturating(), Hinge(), Wasserstein())] == [False, False, True]
    assert [r.bounds_slope for r in (NoRegularizer(), R1(), GradientPenalty())] == [False, False, True]
