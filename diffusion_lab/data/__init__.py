"""Data sets: x in [-1, 1] float32 (B, C, H, W) or (B, D), y class index; see `module.DataModule`.

module         the interface of every data set, a LightningDataModule
digits         handwritten digits of scikit-learn, 1×8×8
mnist          MNIST and Fashion-MNIST
cifar          CIFAR-10 and CIFAR-100
celeba         CelebA
imagenet       ImageNet at 64×64
emoji          emoji in colour
image_folder   your own images, a file each
arrays         your own arrays: levels or real numbers
hf_dataset     a Hugging Face dataset on disk
densities      densities of points and fields with known answers
simulated      simulated series and volumes
in_memory      data sets held in memory
loading        batches on their way to the device
order          which images batch k holds
array_files    reading .npy, .npz, .zarr and HDF5
read_image     reading an image file as levels
reals          real-valued arrays: hash, moments, missing values
table          a CSV of classes and vectors for images
published      where published files are found and how they are checked
checks         errors of data, one sentence each
"""

from diffusion_lab.data.checks import DataError
from diffusion_lab.data.module import DataModule

__all__ = ["DataError", "DataModule"]
