"""The U-Net of the package denoising-diffusion-pytorch as a network of ours: for checkpoints that its Trainer wrote.

What it computes is that package's own code; it is an optional extra, and is imported when such a network is built.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from diffusion_lab.networks.diffusers_unet import NotInstalledError, network_class


class DenoisingUNet(nn.Module):
    """network(x_t (B, in_channels, H, W), timesteps (B,), None) -> (B, out_channels, H, W) float32. It has no classes.

    dim, init_dim, dim_mults, full_attn, attn_heads, attn_dim_head, dropout, sinusoidal_pos_emb_theta, flash_attn: as there. A
    network with self_condition sees x̂_0 = 0, as in half of its training. H and W are divisible by 2^(len(dim_mults) − 1).
    ValueError, in one sentence, where the package is not installed or builds no such network.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_classes: int | None = None,
        dim: int = 64,
        init_dim: int | None = None,
        dim_mults: Sequence[int] = (1, 2, 4, 8),
        full_attn: Sequence[bool] = (False, False, False, True),
        attn_heads: int | Sequence[int] = 4,
        attn_dim_head: int | Sequence[int] = 32,
        self_condition: bool = False,
        dropout: float = 0.0,
        sinusoidal_pos_emb_theta: float = 10000,
        flash_attn: bool = False,
    ):
        super().__init__()
        if num_classes is not None:
            raise ValueError("the Unet of denoising-diffusion-pytorch has no classes: use conditional=false labels=own")
        try:
            unet = network_class("denoising_diffusion_pytorch", "Unet", "denoising-diffusion-pytorch")
            self.unet = unet(
                dim,
                init_dim=init_dim,
                out_dim=out_channels,
                dim_mults=tuple(dim_mults),
                channels=in_channels,
                self_condition=self_condition,
                sinusoidal_pos_emb_theta=sinusoidal_pos_emb_theta,
                dropout=dropout,
                attn_dim_head=_each(attn_dim_head),
                attn_heads=_each(attn_heads),
                full_attn=tuple(full_attn),
                flash_attn=flash_attn,
            )
        except (MemoryError, NotInstalledError):
            raise
        except Exception as error:  # whatever options that do not fit together lead to
            raise ValueError(f"network: this Unet cannot be built: {' '.join(str(error).split())}") from None

    def forward(self, x_t: Tensor, timesteps: Tensor, y: Tensor | None = None) -> Tensor:
        if y is not None:
            raise ValueError("class labels y were given to a network that has no classes; pass y=None")
        factor = self.unet.downsample_factor
        if any(side % factor for side in x_t.shape[-2:]):
            raise ValueError(
                f"network.dim_mults: images of {tuple(x_t.shape[-2:])} pixels need sides divisible by {factor}"
            )
        return self.unet(x_t, timesteps).float()


def _each(value: int | Sequence[int]) -> int | tuple[int, ...]:
    """One number of all levels, or one of each."""
    return value if isinstance(value, int) else tuple(value)
