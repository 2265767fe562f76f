"""The variational autoencoder: an encoder q(z|x_0), a prior p(z), a decoder with its likelihood p(x_0|z).

    L = distortion + β·rate,   distortion = −E_q log p(x_0|z),   rate = KL(q(z|x_0) ‖ p(z))

in bits/dim, so that L with β = 1 and without free bits is the ELBO (Kingma & Welling 2014; β: Higgins et al. 2017). With classes
all parts are conditioned: q(z|x_0, y), p(x_0|z, y), and p(z|y) if the prior is learned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_lab.diffusion import Gaussian, SampleNoise, derive_seed
from diffusion_lab.diffusion.bound import in_bits, in_nats
from diffusion_lab.diffusion.shapes import Conditions
from diffusion_lab.diffusion.streams import BOUND, DECODER, TRAINING
from diffusion_lab.families.vae.elbo import Prior, importance_weighted, log_weight, paid_rate
from diffusion_lab.families.vae.likelihoods import DecoderLikelihood
from diffusion_lab.families.vae.networks import Autoencoder
from diffusion_lab.models.generator import Generator, Likelihood
from diffusion_lab.models.optimization import Optimization
from diffusion_lab.models.shape_checks import check_axes, check_network
from diffusion_lab.models.trainable import RAW, GenerativeModel

IMPORTANCE_DRAWS = 64  # K of the importance-weighted bound


class VAE(GenerativeModel):
    """q(z|x_0), p(z), p(x_0|z), trained by the evidence lower bound.

    Parameters
    ----------
    shape: (C, H, W) of images, or (D,) of points. num_levels: the data's levels; None for continuous data.
    num_classes: of the condition; None without.
    network: given out_channels and num_classes, builds encoder and decoder.
    decoder_likelihood: p(x_0|z) of the decoder's outputs. prior: given latent_dim and num_classes, builds p(z).
    beta: the factor on the rate in training; the reported likelihood always has β = 1.
    free_bits: this many bits of every latent dimension are free in training (Kingma et al. 2016); needs a rate by dimension.
    samples_are_means: samples are means of p(x_0|z); otherwise draws, to which the likelihood refers, with independent noise
        in every pixel.
    seed: training's noise at batch k is a function of (seed, k).
    """

    network: Autoencoder
    term_names = ("loss", "rate", "distortion")

    def __init__(
        self,
        shape: tuple[int, ...],
        num_levels: int | None,
        num_classes: int | None,
        network: Callable[..., Autoencoder],
        decoder_likelihood: DecoderLikelihood,
        prior: Callable[..., Prior],
        optimization: Optimization,
        beta: float,
        free_bits: float,
        samples_are_means: bool,
        seed: int,
    ) -> None:
        super().__init__()
        check_axes(shape)
        for name, value in (("beta", beta), ("free_bits", free_bits)):
            if not 0 <= value < math.inf:
                raise ValueError(f"model.{name}={value} must be at least 0 and finite")
        self.shape, self.num_levels, self.num_classes = tuple(shape), num_levels, num_classes
        self.seed, self.optimization = seed, optimization
        self.decoder_likelihood = decoder_likelihood
        if not isinstance(samples_are_means, bool):
            raise ValueError(f"sampling.means={samples_are_means} must be true or false")
        self.beta, self.free_bits, self.samples_are_means = beta, free_bits, samples_are_means
        if free_bits > 0:
            self.needs_whole_batches = "model.free_bits takes the mean rate of a whole batch"
        self.network = network(
            out_channels=self.shape[0] * decoder_likelihood.outputs_per_channel, num_classes=num_classes
        )
        check_network(self.network, self.shape)
        self.prior = prior(latent_dim=self.network.latent_dim, num_classes=num_classes)
        if free_bits > 0 and not self.prior.by_dimension:
            raise ValueError(
                f"model.free_bits={free_bits} needs prior=standard_normal: the rate of a learned prior is not a sum over dimensions"
            )

    def training_step(self, batch: tuple[Tensor, Tensor | None], batch_idx: int) -> dict[str, Any]:
        """One z per sample. Every rank draws the noise of the global batch and takes its rows."""
        x_0, y = batch
        size, rows = self.global_batch(len(x_0))
        generator = self.random_stream(TRAINING, x_0.device)
        eps = torch.randn(size, self.network.latent_dim, generator=generator, device=x_0.device)[rows]
        terms = self._terms(x_0, self.own_classes(y), eps)
        return {"loss": terms["loss"], "terms": {name: term.detach() for name, term in terms.items()}}

    def held_out_terms(self, x_0: Tensor, y: Conditions, noise: SampleNoise) -> dict[str, Tensor]:
        return self._terms(x_0, self.own_classes(y), noise.initial((self.network.latent_dim,)).to(x_0))

    def _terms(self, x_0: Tensor, y: Tensor | None, eps: Tensor) -> dict[str, Tensor]:
        """The loss and its parts, as means of the batch."""
        mean, log_variance, output = self.network(x_0, eps, y)
        posterior = Gaussian(mean, log_variance)
        rates = self.prior.rate(posterior, self.prior.log_prob(posterior.sample(eps), y))
        distortion = self._distortion(output, x_0).mean()
        paid = paid_rate(rates, in_nats(self.free_bits), self._batch_mean(rates))
        loss = distortion + self.beta * self._bits_per_dim(paid)
        return {"loss": loss, "rate": self._bits_per_dim(rates.sum(dim=1)).mean(), "distortion": distortion}

    def generator(self, weights: str = RAW) -> VAEGenerator:
        return VAEGenerator(
            shape=self.shape,
            num_levels=self.num_levels,
            num_classes=self.num_classes,
            network=self.frozen(self.network, weights),
            prior=self.frozen(self.prior, weights),
            decoder_likelihood=self.decoder_likelihood,
            samples_are_means=self.samples_are_means,
        )

    def _distortion(self, output: Tensor, x_0: Tensor) -> Tensor:
        return distortion(self.decoder_likelihood, output, x_0)

    def _bits_per_dim(self, nats: Tensor) -> Tensor:
        return in_bits(nats, math.prod(self.shape))

    def _batch_mean(self, rates: Tensor) -> Tensor | None:
        """The mean rate of each latent dimension over all ranks; None if one rank has the whole batch, or without free bits."""
        if self.trainer.world_size == 1 or self.free_bits == 0:
            return None
        return self.of_all_ranks(rates.detach().mean(dim=0)).mean(dim=0)


def distortion(decoder_likelihood: DecoderLikelihood, output: Tensor, x_0: Tensor) -> Tensor:
    """−log p(x_0|z), bits/dim, float64 (B,)."""
    nats = -decoder_likelihood.log_prob(output, x_0).double().flatten(1).sum(dim=1)
    return in_bits(nats, math.prod(x_0.shape[1:]))


@dataclass(frozen=True, kw_only=True, eq=False)
class VAEGenerator(Generator):
    """p(z), p(x_0|z) and q(z|x_0) after training. samples_are_means: samples are means of p(x_0|z); otherwise draws."""

    network: Autoencoder
    prior: Prior
    decoder_likelihood: DecoderLikelihood
    samples_are_means: bool

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        return {"network": self.network, "prior": self.prior}

    def sample(self, indices: Tensor, seed: int, y: Conditions = None) -> Tensor:
        y = self.own_classes(y)
        output = self.network.decode(self.prior.from_noise(self.latents(indices, seed), y), y)
        if self.samples_are_means:
            return self.decoder_likelihood.mean(output)
        return self.decoder_likelihood.draw(output, SampleNoise(derive_seed(seed, DECODER), indices))

    def latents(self, indices: Tensor, seed: int) -> Tensor:
        """u ~ N(0, I), which the prior maps to z."""
        return SampleNoise(seed, indices).initial((self.network.latent_dim,))

    def decode(self, z: Tensor, y: Conditions = None) -> Tensor:
        """The mean of p(x_0|z) at the z of these latents."""
        y = self.own_classes(y)
        return self.decoder_likelihood.mean(self.network.decode(self.prior.from_noise(z, y), y))

    def encode(self, x_0: Tensor, y: Conditions = None) -> Tensor:
        """The noise u that the prior maps to the mean of q(z|x_0)."""
        y = self.own_classes(y)
        return self.prior.to_noise(self.network.encode(x_0, y)[0], y)

    def _evaluate_once(self, z: Tensor, y: Conditions) -> object:
        """The cost of prior and decoder; for the prior that of u(z), because the counter has no formula for a triangular system. It
        includes the composition of each matrix, which a batch shares."""
        y = self.own_classes(y)
        return self.prior.to_noise(z, y), self.network.decode(z, y)

    def likelihood(self, x_0: Tensor, y: Conditions, seed: int, indices: Tensor, max_terms: int | None) -> Likelihood:
        """The ELBO, averaged over K draws of z, and the importance-weighted bound of these draws.

        Draws are made one at a time, so memory does not grow with K.
        """
        y = self.own_classes(y)
        posterior = Gaussian(*self.network.encode(x_0, y))
        noise = SampleNoise(derive_seed(seed, BOUND), indices)
        draws, log_weights = [], []
        for k in range(IMPORTANCE_DRAWS):
            z = posterior.sample(noise(k + 1, posterior.mean))
            log_prior = self.prior.log_prob(z, y)
            rate = self._bits_per_dim(self.prior.rate(posterior, log_prior).double().sum(dim=1))
            lost = distortion(self.decoder_likelihood, self.network.decode(z, y), x_0)
            draws.append({"rate": rate, "distortion": lost})
            log_weights.append(log_weight(posterior, z, log_prior, -in_nats(lost, math.prod(self.shape))))
        tighter = self._bits_per_dim(-importance_weighted(torch.stack(log_weights)))
        kind = "ELBO" if y is None else "ELBO given the class"
        return Likelihood.averaged(draws, kind, beside={"importance_weighted": tighter})

    def protocol(self) -> dict[str, Any]:
        return {
            "family": "vae",
            "decoder_likelihood": repr(self.decoder_likelihood),
            "prior": type(self.prior).__name__,
            "samples_are": f"{'means' if self.samples_are_means else 'draws'} of the decoder's likelihood",
            "importance_draws": IMPORTANCE_DRAWS,
            "conditional": self.num_classes is not None,
        }

    def _bits_per_dim(self, nats: Tensor) -> Tensor:
        return in_bits(nats, math.prod(self.shape))
