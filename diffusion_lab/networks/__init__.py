"""The networks: tensors in, tensors out. A denoiser's network(x_t, timesteps, y) -> (B, out_channels, …) float32.

A denoiser's network.classifier() turns a fresh one into a classifier of x_t: (x_t, timesteps) -> (B, out_channels) logits.

unet             the U-Net of guided diffusion (ADM)
encoder          the encoder of the U-Net, shared with classifiers of noisy images
blocks           convolution, residual block, attention, resampling
norm             group norm, modulation and SiLU in one operation
embeddings       embeddings of timestep, class and vector; fields beside x_t
mlp              a residual multilayer perceptron, for points
dropout          dropout keyed by seed, step, sample and layer
sizes            checks of sizes, and sizes that follow from the image
flops            parameters and operations of one evaluation
other_packages   diffusers' U-Net, for published checkpoints
grouped_unet     diffusers' U-Net with other numbers of groups, exported with a model
"""

from diffusion_lab.networks.mlp import MLP
from diffusion_lab.networks.unet import UNet

__all__ = ["MLP", "UNet"]
