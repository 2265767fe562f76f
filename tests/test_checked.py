import jaxtyping
import pytest
import torch

from diffusion_lab.diffusion import CosineSchedule, GaussianDiffusion

from . import checked


def test_types_and_shapes_are_checked_in_the_first_calls():
    process, t = GaussianDiffusion(CosineSchedule(10)), torch.ones(2, dtype=torch.int64)
    for wrong in (t.double(), t[:, None, None]):
        with pytest.raises(jaxtyping.TypeCheckError, match="parameter 't'"):
            process.alpha_bar(wrong)
    for _ in range(checked.MOST):
        process.alpha_bar(t)
    assert jaxtyping.config.jaxtyping_disable
    checked.begin_test()
    assert not jaxtyping.config.jaxtyping_disable
