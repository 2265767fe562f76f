"""The networks: tensors in, tensors out. A denoiser's network(x_t, timesteps, y, s) -> (B, out_channels, …) float32.

A denoiser's network.classifier() turns a fresh one into a classifier of x_t: (x_t, timesteps) -> (B, out_channels) logits.

unet             the U-Net of guided diffusion (ADM): encoder, decoder, activation checkpointing
unet_layout      its levels: sides, channels, where there is attention; their checks
input_channels   what the network sees beside x_t: Fourier features, and fields (conditions that are images)
embeddings       embeddings of the times t and s, class (the null class is the last) and vector
blocks           convolution, residual block, attention, resampling, patches
norm             group norm, its modulation (adaptive group norm) and SiLU in one operation
forward_mode     torch.func.jvp through the networks, where a fast operation has no forward derivative
classifier       a classifier of noisy images: the U-Net's encoder and attention pooling
transformer      DiT and JiT: transformers on patches; transformer_blocks: attention and MLP with adaLN-zero
positions        positions of patches: sinusoids, and rotations of queries and keys
mlp              a residual multilayer perceptron, for points
dropout          dropout keyed by seed, step, sample and layer
fitting          weights of a network as the first ones of another condition or image size
sizes            checks of sizes, and sizes that follow from the image
flops            number of parameters, and operations (FLOPs) of one evaluation
other_packages   diffusers' U-Net, for published checkpoints
grouped_unet     diffusers' U-Net with other numbers of groups, exported with a model
even_dit         diffusers' DiT with the frequencies of ours, likewise
"""

from diffusion_lab.networks.mlp import MLP
from diffusion_lab.networks.transformer import Transformer
from diffusion_lab.networks.unet import UNet

__all__ = ["MLP", "Transformer", "UNet"]
