"""A model of diffusion_lab as a pipeline of diffusers. This file needs torch and diffusers, nothing else.

    pipeline = DiffusionPipeline.from_pretrained(FOLDER, trust_remote_code=True)
    images = pipeline(batch_size=4, num_inference_steps=50).images

It samples by DDIM with η = 0 (Song et al. 2020, eq. 12) along even steps, the last of which is T:

    x_s = α_s·x̂_0 + σ_s·ε̂,   ε̂ = (x_t − α_t·x̂_0)/σ_t,   x̂_0 clipped if the model clips it

With class labels and guidance_scale = s it is guided: output = output(no class) + s·(output(class) − output(no class)). A network
with a learned variance has twice the channels; the second half is ignored.
"""

from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor


class DiffusionLabPipeline(DiffusionPipeline):
    """unet: a UNet2DModel. scheduler: its config holds β_1 … β_T and the kind of prediction."""

    model_cpu_offload_seq = "unet"  # type: ignore[assignment]  # None in the base class, for no order
    scheduler: Any  # set by register_modules, as is the network

    def __init__(self, unet, scheduler, num_inference_steps: int = 50, guidance_scale: float = 1.0):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        self.register_to_config(num_inference_steps=num_inference_steps, guidance_scale=guidance_scale)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        class_labels=None,
        generator=None,
        latents=None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ):
        """Images: "pil", "np" (B, H, W, C) in [0, 1], or "pt" (B, C, H, W) in [0, 1].

        class_labels: a class, a list of them, or None: no class. latents: x_T ~ N(0, I), (B, C, H, W), in place of a generator.
        """
        size = self.network.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        shape = (batch_size, self.network.config.in_channels, height, width)
        device, dtype = self._execution_device, self.network.dtype
        x = randn_tensor(shape, generator=generator, device=device, dtype=dtype) if latents is None else latents
        x = x.to(device, dtype)
        labels = self._labels(class_labels, len(x))
        scale = self.config["guidance_scale"] if guidance_scale is None else guidance_scale
        steps = self.config["num_inference_steps"] if num_inference_steps is None else num_inference_steps
        alpha_bar = (1 - torch.tensor(self.scheduler.config.trained_betas, dtype=torch.float64)).cumprod(0).tolist()
        times = _even(len(alpha_bar), steps)
        for t, s in self.progress_bar(list(zip(times, [*times[1:], -1], strict=True))):
            here, there = alpha_bar[t], 1.0 if s < 0 else alpha_bar[s]
            x_0 = self._x_0(self._output(x, t, labels, scale), x, here**0.5, (1 - here) ** 0.5)
            eps = (x - here**0.5 * x_0) / (1 - here) ** 0.5
            x = there**0.5 * x_0 + (1 - there) ** 0.5 * eps
        images = (x / 2 + 0.5).clamp(0, 1)
        if output_type != "pt":
            images = images.float().cpu().permute(0, 2, 3, 1).numpy()
            images = self.numpy_to_pil(images) if output_type == "pil" else images
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    @property
    def network(self) -> Any:
        return self.unet

    @property
    def num_rows(self) -> int | None:
        """Of the table of classes; the last one is "no class". None without classes."""
        return self.network.config.num_class_embeds

    def _labels(self, class_labels, count):
        """int64 (B,); None for a network without classes."""
        rows = self.num_rows
        if rows is None:
            if class_labels is not None:
                raise ValueError("class_labels: this model has no classes")
            return None
        labels = torch.as_tensor(rows - 1 if class_labels is None else class_labels, device=self._execution_device)
        if labels.min() < 0 or labels.max() > rows - 1:
            raise ValueError(f"class_labels: choose classes from 0 … {rows - 2}")
        return labels.long().expand(count)

    def _output(self, x, t, labels, scale):
        channels, times = x.shape[1], torch.full((len(x),), t, device=x.device)
        output = self.network(x, times, class_labels=labels).sample[:, :channels]
        if labels is None or scale == 1:
            return output
        none = torch.full_like(labels, self.num_rows - 1)
        without = self.network(x, times, class_labels=none).sample[:, :channels]
        return without + scale * (output - without)

    def _x_0(self, output, x, signal, noise):
        settings = self.scheduler.config
        match settings.prediction_type:
            case "epsilon":
                x_0 = (x - noise * output) / signal
            case "v_prediction":
                x_0 = signal * x - noise * output
            case _:
                x_0 = output
        return x_0.clamp(-settings.clip_sample_range, settings.clip_sample_range) if settings.clip_sample else x_0


class DiffusionLabDiTPipeline(DiffusionLabPipeline):
    """transformer: a DiTTransformer2DModel. scheduler: as above."""

    model_cpu_offload_seq = "transformer"

    def __init__(self, transformer, scheduler, num_inference_steps: int = 50, guidance_scale: float = 1.0):
        DiffusionPipeline.__init__(self)
        self.register_modules(transformer=transformer, scheduler=scheduler)
        self.register_to_config(num_inference_steps=num_inference_steps, guidance_scale=guidance_scale)

    @property
    def network(self) -> Any:
        return self.transformer

    @property
    def num_rows(self) -> int:
        return self.network.config.num_embeds_ada_norm + 1


def _even(last: int, steps: int) -> list[int]:
    """`steps` of the times last − 1, …, 0, evenly spaced, including the first."""
    if not 1 <= steps <= last:
        raise ValueError(f"num_inference_steps={steps} must lie between 1 and {last}")
    if steps == 1:
        return [last - 1]
    return [round(i * (last - 1) / (steps - 1)) for i in reversed(range(steps))]
