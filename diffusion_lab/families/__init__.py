"""Families of generative models beside diffusion, each with its loss, networks and LightningModule."""
