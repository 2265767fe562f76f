"""ImageNet at 64×64, in either of two forms."""

from pathlib import Path

from diffusion_lab.data.checks import DataError
from diffusion_lab.data.image_folder import ImageFolder

_LAYOUTS = ({"train": "train_64x64", "test": "valid_64x64"}, {"train": "train", "test": "val"})


class ImageNet64(ImageFolder):
    """ImageNet at 64×64, in the first of these forms found in `root`, with validation images as test images:

    - train_64x64/ and valid_64x64/: 1,281,149 + 49,999 PNG files without classes (A. van den Oord, N. Kalchbrenner,
      K. Kavukcuoglu, Pixel recurrent neural networks, 2016), which Nichol & Dhariwal 2021 report likelihoods on;
    - train/ and val/: ImageNet itself, one folder for each of its 1,000 classes, cropped and resized when it is shown.
    """

    name = "imagenet64"

    def _split_folders(self) -> dict[str, Path]:
        for layout in _LAYOUTS:
            folders = {split: self.root / name for split, name in layout.items()}
            if any(folder.is_dir() for folder in folders.values()):
                return folders
        raise DataError(
            f"ImageNet was not found in {self.root}: get train_64x64.tar and valid_64x64.tar from image-net.org and unpack "
            "them there, or put the class folders of the full ImageNet into train/ and val/ there."
        )
