"""The launchers of `diffusion-lab … -m`. Hydra imports this in every Hydra application, so it imports nothing heavy."""
