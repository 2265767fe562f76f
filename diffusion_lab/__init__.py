"""diffusion_lab: denoising diffusion as an experiment. The theory is in `diffusion_lab.diffusion`."""

__version__ = "0.1.0"
