"""The theory of the families that diffusion is set against, under the same rules as that of diffusion itself."""
