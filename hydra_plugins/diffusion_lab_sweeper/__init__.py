"""The sweeper behind `diffusion-lab train -m`. Hydra imports this in every Hydra application, so it imports nothing heavy."""
