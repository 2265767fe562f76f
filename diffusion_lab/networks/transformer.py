"""Transformers that denoise patches: DiT (Peebles & Xie 2023) and JiT (Li & He 2025), for signals, images and volumes.

    h = W_in patches(x_t, fields) + positions,      e = MLP(t) + condition,      h <- block(h, e) for every block,
    output = patches⁻¹(W_out ((1 + scale(e))·norm(h) + shift(e)))

A block (adaLN-zero) has six modulations, linear in SiLU(e), which start at zero, so that it starts as the identity:

    h <- h + gate_1·attention((1 + scale_1)·norm(h) + shift_1)
    h <- h + gate_2·MLP((1 + scale_2)·norm(h) + shift_2)

         norm                attention                     MLP            positions                 tokens beside the patches
    DiT  layer norm          softmax(Q·Kᵀ/√c)·V            GELU, 4·width  sinusoids, or learned     none
    JiT  root mean square    Q, K normalised and rotated   SwiGLU         sinusoids and rotations   the condition, in context
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from diffusion_lab.conditions.condition import Size
from diffusion_lab.diffusion.shapes import Conditions
from diffusion_lab.networks.blocks import PixelLinear, cropped, from_patches, held_back, to_patches, zero
from diffusion_lab.networks.embeddings import MAX_PERIOD, Conditioning, is_of_condition
from diffusion_lab.networks.fitting import Names, Origin, Weights, null_embedding, with_fields_of
from diffusion_lab.networks.forward_mode import recomputes
from diffusion_lab.networks.input_channels import field_channels, with_fields
from diffusion_lab.networks.positions import rotations, sinusoidal_positions
from diffusion_lab.networks.sizes import Sides, check_counts, check_dropout, lengths, patch_of_tokens
from diffusion_lab.networks.transformer_blocks import (
    MLP,
    GatedMLP,
    LayerNorm,
    Modulated,
    RMSNorm,
    TransformerBlock,
)

# size -> (width, blocks, heads); S to XL as in Peebles & Xie 2023, table 1.
SIZES = {
    "XXS": (96, 4, 3),
    "XS": (192, 6, 3),
    "S": (384, 12, 6),
    "B": (768, 12, 12),
    "L": (1024, 24, 16),
    "XL": (1152, 28, 16),
}
_SINUSOIDS = 256  # of t
_STD = 0.02  # of embeddings at the start


class Transformer(nn.Module):
    """network(x_t (B, in_channels, *spatial), timesteps (B,), y=None, s=None) -> (B, out_channels, *spatial), float32.

    - image_size: the side of a square, or the lengths of one, two or three spatial axes.
    - y, s, num_classes, conditions, two_times, held_channels, null_class, timestep_scale, activation_checkpointing: as for the
      U-Net.
    - max_period: of the sinusoids of t.
    - size: XXS, XS, S, B, L or XL; width, num_blocks, num_heads: in place of its.
    - patch_size: side of the patches; None: the smallest power of two with at most 256 patches. Images are padded to a whole
      number of patches.
    - dropout: of the outputs of attention and inside the MLP.

    The two recipes differ in:

    - learned_positions: the positions added to the patches are parameters; else sinusoids.
    - rotary: queries and keys are rotated by their position (RoPE). qk_norm: and normalised before.
    - rms_norm: root-mean-square norms with a gain per channel; else layer norms without parameters.
    - gated_mlp: W_2(SiLU(a)·b), (a, b) = W_1·h, of ⌊8/3·width⌋ channels (SwiGLU); else W_2 GELU(W_1·h) of 4·width.
    - bottleneck: W_in is the product of two matrices of this rank, where a patch has more values; None: one matrix.
    - num_context: tokens with the condition that are put before the patches after a third of the blocks; None: an eighth of the
      number of patches, at most 32.

    W_out starts at zero, so the network's first output is exactly 0. Raises ValueError where sizes do not fit.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        image_size: Sides,
        num_classes: int | None = None,
        size: str = "XXS",
        width: int | None = None,
        num_blocks: int | None = None,
        num_heads: int | None = None,
        patch_size: int | None = None,
        dropout: float = 0.0,
        activation_checkpointing: bool = False,
        learned_positions: bool = False,
        rotary: bool = False,
        qk_norm: bool = False,
        rms_norm: bool = False,
        gated_mlp: bool = False,
        bottleneck: int | None = None,
        num_context: int | None = 0,
        held_channels: int = 0,
        timestep_scale: float = 1.0,
        max_period: float = MAX_PERIOD,
        null_class: bool = True,
        conditions: Sequence[Size] = (),
        two_times: bool = False,
    ):
        super().__init__()
        if size not in SIZES:
            raise ValueError(f"network.size={size} must be one of {', '.join(SIZES)}")
        given = (width, num_blocks, num_heads)
        width, num_blocks, num_heads = (
            usual if own is None else own for own, usual in zip(given, SIZES[size], strict=True)
        )
        sides = lengths(image_size)
        patch_size = patch_of_tokens(sides) if patch_size is None else patch_size
        check_counts(in_channels=in_channels, out_channels=out_channels, patch_size=patch_size)
        check_counts(width=width, num_blocks=num_blocks, num_heads=num_heads)
        check_counts(bottleneck=1 if bottleneck is None else bottleneck)
        check_dropout(dropout)
        if width % (2 * num_heads):
            raise ValueError(f"network.width={width} must be a multiple of 2·network.num_heads={2 * num_heads}")
        self.null_class, self.patch_size = null_class, patch_size
        grid = _grid(sides, patch_size)
        norm = RMSNorm if rms_norm else LayerNorm
        values = patch_size ** len(sides)
        num_context = _context_for(grid) if num_context is None else num_context
        if num_context < 0:
            raise ValueError(f"network.num_context={num_context} must be at least 0")
        self.trunk = Trunk(
            conditioning=Conditioning(
                _SINUSOIDS, width, num_classes, timestep_scale, null_class, conditions, max_period, two_times
            ),
            inputs=Tokens(
                in_channels * values,
                field_channels(conditions, len(sides)) * values,
                width,
                patch_size,
                grid,
                bottleneck,
                learned_positions,
                num_context,
            ),
            blocks=[
                TransformerBlock(width, num_heads, norm, GatedMLP if gated_mlp else MLP, qk_norm, dropout)
                for _ in range(num_blocks)
            ],
            patch_size=patch_size,
            rotary=rotations(grid, width // num_heads) if rotary else None,
            activation_checkpointing=activation_checkpointing,
        )
        self.output_norm = Modulated(norm, width)
        self.output = PixelLinear(width, out_channels * values)
        self.held_channels = held_channels * values
        self.apply(_start)
        self.trunk.start()
        zero(self.output)

    def forward(self, x_t: Tensor, timesteps: Tensor, y: Conditions = None, s: Tensor | None = None) -> Tensor:
        h, e = self.trunk(x_t, timesteps, y, s)
        h = self.output_norm(h, e).mT.unflatten(2, self.trunk.inputs.grid)
        output = held_back(self.output, h, self.held_channels).float()
        return cropped(from_patches(output, self.patch_size), x_t.shape[2:])

    @staticmethod
    def options_at(size: Sides, options: Mapping[str, Any], source: Sides) -> dict[str, Any]:
        """Options for images of `size` with which the weights of a network for `source` fit: patches and context of that one.

        options: of that network; those that are None there are as they follow from `source`.
        """
        patch_size, num_context = options["patch_size"], options["num_context"]
        patch_size = patch_of_tokens(lengths(source)) if patch_size is None else patch_size
        return {
            "patch_size": patch_size,
            "num_context": _context_for(_grid(source, patch_size)) if num_context is None else num_context,
        }

    def classifier(self) -> "TransformerClassifier":
        """A classifier from this network's blocks: out_channels logits from the mean of the patches."""
        num_logits = self.output.out_features // self.patch_size ** len(self.trunk.inputs.grid)
        return TransformerClassifier(self.trunk, self.output_norm, num_logits)


class TransformerClassifier(nn.Module):
    """(x_t (B, C, *spatial) float32, timesteps int64 (B,)) -> logits float32 (B, num_logits)."""

    def __init__(self, trunk: "Trunk", norm: "Modulated", num_logits: int):
        super().__init__()
        self.trunk, self.norm = trunk, norm
        self.output = zero(nn.Linear(trunk.inputs.width, num_logits))

    def forward(self, x_t: Tensor, timesteps: Tensor) -> Tensor:
        h, e = self.trunk(x_t, timesteps, None)
        return self.output(self.norm(h, e).mean(1)).float()


class Trunk(nn.Module):
    """(x_t (B, C, *spatial), timesteps, y, s) -> (h (B, N, width) of the N patches after all blocks, e (B, width) through SiLU)."""

    rotary: Tensor | None

    def __init__(
        self,
        conditioning: Conditioning,
        inputs: "Tokens",
        blocks: Sequence["TransformerBlock"],
        patch_size: int,
        rotary: Tensor | None,
        activation_checkpointing: bool,
    ):
        super().__init__()
        self.conditioning, self.inputs, self.blocks = conditioning, inputs, nn.ModuleList(blocks)
        self.patch_size, self.activation_checkpointing = patch_size, activation_checkpointing
        self.context_block = len(blocks) // 3
        # Tokens in context are not rotated, like the first patch, whose position is 0.
        if rotary is not None:
            rotary = torch.cat([rotary[:, :1].expand(-1, inputs.num_context, -1), rotary], dim=1)
        self.register_buffer("rotary", rotary, persistent=False)

    def start(self) -> None:
        """The first values of embeddings."""
        for parameter in (*self.conditioning.parameters(), *self.inputs.embeddings()):
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=_STD)
        self.conditioning.start_with_one_time()

    def forward(self, x_t: Tensor, timesteps: Tensor, y: Conditions, s: Tensor | None = None) -> tuple[Tensor, Tensor]:
        e, condition = self.conditioning.of_time_and_condition(timesteps, y, s)
        e = functional.silu(e if condition is None else e + condition)
        h = self.inputs(to_patches(self.padded(with_fields(x_t, y, self.conditioning.sizes)), self.patch_size))
        num_context = self.inputs.num_context
        rotary = None if self.rotary is None else self.rotary[:, num_context:]
        for number, block in enumerate(self.blocks):
            if num_context and number == self.context_block:
                h = torch.cat([self.inputs.in_context(h, condition), h], dim=1)
                rotary = self.rotary
            if recomputes(self.activation_checkpointing):
                h = checkpoint(block, h, e, rotary, use_reentrant=False)
            else:
                h = block(h, e, rotary)
        return h[:, num_context:], e

    def fit_weights(self, weights: Weights, origin: Origin) -> tuple[Weights, Names]:
        """Tokens in context, which are given the embedded condition, keep the null of another one."""
        there = {key: tensor for key, tensor in weights.items() if is_of_condition(key.removeprefix("conditioning."))}
        own = {key: tensor for key, tensor in self.state_dict().items() if key.startswith("conditioning.")}
        differs = any(key not in own or own[key].shape != tensor.shape for key, tensor in there.items())
        if not differs or "inputs.context" not in weights:
            return weights, ()
        return {**weights, "inputs.context": weights["inputs.context"] + null_embedding(there, origin)}, ()

    def padded(self, x: Tensor) -> Tensor:
        """x with zeros behind the end of each axis, up to a whole number of patches."""
        missing = [-side % self.patch_size for side in x.shape[2:]]
        return functional.pad(x, [part for n in reversed(missing) for part in (0, n)]) if any(missing) else x


class Tokens(nn.Module):
    """patches (B, C, *grid) -> tokens (B, N, width): W_in of each patch, and its position."""

    def __init__(
        self,
        image_channels: int,
        field_channels: int,
        width: int,
        patch_size: int,
        grid: Sequence[int],
        bottleneck: int | None,
        learned_positions: bool,
        num_context: int,
    ):
        super().__init__()
        self.width, self.grid, self.num_context = width, tuple(grid), num_context
        self.image_channels, self.patch_size = image_channels, patch_size
        in_channels = image_channels + field_channels
        rank = min(in_channels, in_channels if bottleneck is None else bottleneck)
        self.reduce = nn.Linear(in_channels, rank, bias=False) if rank < in_channels else nn.Identity()
        self.embed = nn.Linear(rank, width)
        if learned_positions:
            self.positions = nn.Parameter(torch.zeros(math.prod(grid), width))
        else:
            self.register_buffer("positions", sinusoidal_positions(grid, width), persistent=False)
        self.context = nn.Parameter(torch.zeros(num_context, width)) if num_context else None

    def embeddings(self) -> list[nn.Parameter]:
        """Learned positions and context tokens."""
        return [*self.parameters(recurse=False)]

    def forward(self, patches: Tensor) -> Tensor:
        h = self.embed(self.reduce(patches.flatten(2).mT))
        return h + self.positions.to(h.dtype)

    def fit_weights(self, weights: Weights, origin: Origin) -> tuple[Weights, Names]:
        """Weights of fields start at zero; learned positions are interpolated where the grid of patches differs."""
        first = "reduce.weight" if "reduce.weight" in weights else "embed.weight"
        own = self.state_dict().get(first, torch.empty(0))
        weights, _ = with_fields_of(own, first, weights, self.image_channels)
        there = weights.get("positions")
        grid = [-(-side // self.patch_size) for side in origin.sides]
        if there is None or grid == [*self.grid] or len(there) != math.prod(grid) or len(grid) != len(self.grid):
            return weights, ()
        table = there.float().mT.unflatten(1, grid)[None]
        mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(grid)]
        resized = functional.interpolate(table, self.grid, mode=mode)[0].flatten(1).mT
        return {**weights, "positions": resized.contiguous()}, ()

    def in_context(self, like: Tensor, condition: Tensor | None) -> Tensor:
        """(B, num_context, width): the embedded condition at learned positions."""
        assert self.context is not None
        context = self.context.to(like.dtype).expand(len(like), -1, -1)
        return context if condition is None else context + condition.to(like.dtype)[:, None]


def _grid(image_size: Sides, patch_size: int) -> list[int]:
    """The number of patches along each axis."""
    return [-(-side // patch_size) for side in lengths(image_size)]


def _context_for(grid: Sequence[int]) -> int:
    return min(32, math.prod(grid) // 8)


def _start(module: nn.Module) -> None:
    """Glorot's uniform weights and no bias, as published; modulations of zero. Parts of a module come before it."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    if isinstance(module, TransformerBlock | Modulated):
        zero(module.modulation)
