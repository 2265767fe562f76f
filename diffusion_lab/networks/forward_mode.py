"""Forward-mode derivatives of the networks: torch.func.jvp, in x_t and both times, whose primal output has gradients as ever.

Two operations have no forward derivative, torch's fused attention (pytorch#128971, #165530) and our group norm: `attend` and
`scale_shift_group_norm` use plain products and sums there.
"""

import torch
from torch.autograd import forward_ad


def in_forward_mode() -> bool:
    """Whether a forward-mode derivative is being taken, by torch.func.jvp or in a dual level."""
    return forward_ad._current_level >= 0


def recomputes(activation_checkpointing: bool) -> bool:
    """Whether blocks keep no activations here, to recompute them in the backward pass. ValueError in a jvp with gradients."""
    if not (activation_checkpointing and torch.is_grad_enabled()):
        return False
    if in_forward_mode():
        raise ValueError(
            "network.activation_checkpointing=true: no block can be recomputed for the gradient of a jvp; take the jvp in "
            "torch.no_grad() beside a plain evaluation, or use network.activation_checkpointing=false"
        )
    return True
