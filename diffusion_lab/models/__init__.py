"""LightningModules, which train, and the generators that they return, which draw, encode and bound.

generator             the frozen object that draws, encodes and bounds; a likelihood
diffusion_generator   the generator of a diffusion: samples, latents of images, the variational bound
measured              statistics of a diffusion network, and generators that use them
trainable             base classes of the modules: keyed randomness and dropout, optimizer, weights and their averages
diffusion             denoising diffusion as a LightningModule
noisy_classifier      p(y|x_t), for classifier guidance
condition_dropout     training samples that lose their conditions to the null class, for classifier-free guidance
means                 running means for the logs of training and validation
compatibility         checks of the parts of a diffusion that cannot train together
shape_checks          checks of the shape of the data, for every family
weights               weights in safetensors files, and frozen copies of networks
tuning                which weights train: frozen parts, and additions of low rank (LoRA)
optimization          the optimizer and its learning rate over the budget
muon                  the optimizer Muon (Jordan et al. 2024)
budget                the budget of training, in steps, in time or both
"""
