"""The theory of the families that diffusion is set against. Rules as for `diffusion/`: tensors in, tensors out."""
