"""Lightning's Trainer, its callbacks, and what surrounds a training.

trainer_options   options of Lightning's Trainer, and checks of callbacks that the user adds
ema            exponential and power-law moving averages of the weights
profiles       averages of any length as combinations of a few
snapshots      weights kept during training, for evaluation
checkpoints    resume.ckpt, from which training resumes
finite         skips steps with non-finite gradients
monitor        running means of the losses, gradient norm, speed; progress bar
sample_grid    pictures of samples during training
record         metrics.csv
trackers       Weights & Biases, and Lightning's loggers
tensorboard    Lightning's logger for TensorBoard, with pictures
interruption   signals: save and end
ranks          processes that train or sample together
devices        devices of this machine, and the devices that a job requests
speed          torch.compile, TF32, reuse of memory
"""
