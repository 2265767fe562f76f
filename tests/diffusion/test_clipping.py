import pytest
import torch

from diffusion_lab.diffusion import (
    Clamp,
    CosineSchedule,
    DynamicThreshold,
    FixedSmall,
    GaussianDiffusion,
    NoClipping,
    PredictStart,
    ReverseProcess,
)

PROCESS = GaussianDiffusion(CosineSchedule(20))
X_0 = torch.tensor([[0.1, -0.4, 3.0, 0.2], [0.1, -0.4, 0.9, 0.2]], dtype=torch.float64)


def looked(clip_x_0):
    reverse = ReverseProcess(lambda x_t, timesteps, y: X_0, PredictStart(), FixedSmall(), clip_x_0)
    return reverse(PROCESS, torch.ones(2, 4, dtype=torch.float64), torch.tensor([7, 20]))


def test_true_and_false_stay_words_for_a_clamp():
    """True and false stay words for a clamp and for nothing."""
    for word, strategy in ((True, Clamp()), (False, NoClipping())):
        assert ReverseProcess(torch.relu, PredictStart(), FixedSmall(), word).clip_x_0 == strategy
        assert torch.equal(looked(word).x_0, looked(strategy).x_0)
    assert torch.equal(looked(True).x_0, X_0.clamp(-1, 1))
    assert torch.equal(looked(False).x_0, X_0)


def test_a_dynamic_threshold_scales_an_image():
    """A dynamic threshold scales an image by its own quantile and leaves those in range."""
    x_0 = looked(DynamicThreshold(share=1.0)).x_0
    torch.testing.assert_close(x_0, torch.stack([X_0[0] / 3, X_0[1]]))
    half = DynamicThreshold(share=0.5)(X_0)
    torch.testing.assert_close(half, X_0.clamp(-1, 1))
    with pytest.raises(ValueError, match=r"clip_x_0\.share=0.0"):
        DynamicThreshold(0.0)


@pytest.mark.parametrize("clip", [NoClipping(), Clamp(), DynamicThreshold()], ids=repr)
def test_x_0_and_eps_still_make_up_x_t(clip):
    look, t = looked(clip), torch.tensor([7, 20])
    again = PROCESS.signal(t)[:, None] * look.x_0 + PROCESS.sigma(t)[:, None] * look.eps
    torch.testing.assert_close(again, torch.ones(2, 4, dtype=torch.float64))
    assert float(clip.in_range(3 * X_0).abs().max()) == (9.0 if clip == NoClipping() else 1.0)
