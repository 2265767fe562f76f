"""The commands: `diffusion-lab NAME` runs `NAME.py`; further files are what they share.

train         train, then score
evaluate      score a trained model, or given images; `score_once` finds or computes a score, writes and shows it
sample        draw images
report        tables and figures of a sweep
status        progress of a sweep
schedule      show a noise schedule
features      train features without labels
statistics    write a data set's images and feature statistics
import        a model from a published checkpoint
export        a model as a diffusers pipeline or a program
demo          a local page that draws
dashboard     a workspace at Weights & Biases
doctor        what this machine has and lacks
prune         files that nothing uses
library       `diffusion_lab.load`
main          the entry point and --help
app           a Hydra app per command
help          --help of a command, of a group of choices, of an option
next_steps    `diffusion-lab` alone
fit           a training in its folder
score_table   the table of a score
sweeping      `train -m`
rounds        its rounds: one, or one for each seed until every difference is decided
search        the best trial of a search
job           one job of a sweep or of another multirun
accuracy      the accuracy of a noisy classifier
"""
