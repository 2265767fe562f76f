"""Composing, checking and building configs. The commands run the results.

Only this package and `commands` see a cfg.

composing           options that a command adds before its config is composed
overrides           config values as text and back
comments            what the comments of a yaml file say
options             options against the annotations of the classes that receive them
mistakes            the user's mistakes in one sentence each
unknown_names       options and choices that do not exist, and which may be meant
own_code            what is wrong in the user's own code
build               objects from a config
picking             batch, width and steps for your own images
training            a training from a config
starting            its first weights, and which of them train
sweeps              the plan of a sweep from the command line of a multirun
duration            how long a plan takes on this CPU
loading             a trained model from its folder
untrusted           the config in a model's folder, which may be a stranger's
weight_files        weights by name; averages built after training
naming              names and folders of trainings and scores
spelling            options and classes in the spelling of earlier versions
scores              the plan of a score from a config
given               the plan of a score of given images
guiding_models      guidance by another model
sample_options      options of `sample`
drawn_conditions    conditions of samples
editing             edits of given images
tracking            trackers from a config
working_directory   what a command reads from the working directory
"""

import logging

logging.getLogger("hydra.utils").addHandler(logging.NullHandler())  # get_object logs its errors
