"""Families of generative models beside diffusion, each with its loss, networks, LightningModule and generator.

gan/gan           LightningModule and generator of a GAN
gan/adversarial   adversarial losses and regularizers
gan/networks      generators and discriminators
vae/vae           LightningModule and generator of a VAE
vae/elbo          priors, rates and the importance-weighted bound
vae/likelihoods   likelihoods of the decoder, p(x_0|z)
vae/networks      encoders and decoders
flow/flow         LightningModule and generator of a normalizing flow
flow/couplings    invertible maps and their log-determinants
flow/networks     flows for points and for images
"""
