"""Metrics of models, one file each, and the path from samples to numbers.

score                 a plan -> samples -> features -> metrics -> scores
metric                the interface of a metric, its view of the samples, and scores
samples               samples, and what they come from
drawer                samples of a generator, drawn once, kept in files, and shared among ranks
given                 given images as samples or reference
reference             real images as each set of features sees them
network_measurements  statistics of a network and of its data, before samples are drawn
settings              number of samples, split, batch size, precision
stored                results in files of the cache
pictures              interpolations, reconstructions, samples for fields
effort                seconds and memory of drawing samples
torch_metric          image metrics of torchmetrics, a column each by their yaml
features/             sets of features: images -> vectors
frechet_distance      Fréchet distance (fid, fd_<features>)
frechet_infinity      Fréchet distance at n = ∞
kernel_distance       kernel distance (KID)
precision_recall      precision and recall
inception_score       Inception score
sliced_wasserstein    sliced Wasserstein distance of Laplacian pyramids
class_accuracy        samples of the requested class
class_coverage        classes among the samples
condition_fit         samples with the requested vector
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
