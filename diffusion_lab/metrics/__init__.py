"""Metrics of models, one file each, and the path from samples to numbers.

score                 a score from a plan: samples -> features -> metrics -> values
metric                the interface of a metric, its view of the samples, and scores
samples               samples, and the interface of their sources
drawer                samples of a generator, drawn once, cached, and shared among ranks
given                 given images as samples or reference
reference             features and moments of real images
network_measurements  statistics of a network and of its data, computed before samples are drawn
settings              number of samples, split, batch size, precision
stored                tensors in files of the cache; progress callbacks
pictures              interpolations, reconstructions, samples for fields
effort                seconds and memory of drawing samples
torch_metric          image metrics of torchmetrics, one column per yaml
features/             sets of features: images -> vectors
frechet_distance      Fréchet distance (fid, fd_<features>)
frechet_infinity      Fréchet distance at n = ∞
kernel_distance       kernel distance (KID)
precision_recall      precision and recall
inception_score       Inception score
sliced_wasserstein    sliced Wasserstein distance of Laplacian pyramids
class_accuracy        share of samples classified as the requested class
class_coverage        classes among the samples
condition_fit         regression of the samples' vectors on the requested ones
reconstruction        samples for held-out conditions against the truth
copying               copies of training images
power_spectrum        radially averaged power spectrum
bits_per_dim          bits per dimension of held-out images
bits_by_steps         bits per dimension for every number of steps
error_by_log_snr      the network's error by log SNR
distance_by_log_snr   where along the chain errors of samples arise
schedule_advice       the steps with the least bound
cost                  evaluations, time, memory, parameters, training
"""
