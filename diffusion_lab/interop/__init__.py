"""Formats of other packages: checkpoints, samples and statistics are imported, models are exported. Imports run no foreign code.

opening            opening a checkpoint of any supported format
checkpoints        safe reading of tensors; the description of an imported model
from_diffusers     import of a diffusers folder; diffusers_networks: a UNet2DModel or a DiTTransformer2DModel
from_openai        import of a checkpoint of improved-diffusion or guided-diffusion
from_jit           import of a checkpoint of JiT
transformer_weights  names, shapes and orders of parameters of DiT and JiT
openai_weights     OpenAI's names, shapes and orders of parameters
layers             names of our layers in OpenAI's code and in diffusers
to_diffusers       export as a diffusers pipeline
pipeline           that pipeline; a file that is exported
program            export as a torch.export program
card               the model card of an export
given_images       samples of other programs
given_statistics   published means and covariances
"""
