"""CelebA: faces, aligned, 178×218 pixels a file, through torchvision (Z. Liu, P. Luo, X. Wang, X. Tang, Deep learning face
attributes in the wild, 2015).
"""

from torch import Tensor
from torchvision import datasets

from diffusion_lab.data.checks import require
from diffusion_lab.data.image_folder import ImageFiles
from diffusion_lab.data.published import Published, first_wrong
from diffusion_lab.data.read_image import MAX_PIXELS

_FOLDER = datasets.CelebA.base_folder
_IMAGES = "img_align_celeba"


class CelebA(Published, ImageFiles):
    """162,770 faces for training and 19,962 for testing, the authors' split; their 19,867 for validation are not used.

    A face is the central square of 178 pixels, resized to image_size. batch_size, seed, flip: as in `DataModule`. attribute, such
    as Smiling: two classes, 1 if present; None: no classes. root: the folder with celeba/img_align_celeba/ and the lists beside it;
    None: the user's cache folder. download: fetch them, which needs the package gdown. num_workers, on_error, max_pixels: as in
    `ImageFiles`. The images are checked and hashed one by one.
    """

    name = "celeba"
    title = "CelebA"

    def __init__(
        self,
        batch_size: int,
        seed: int,
        image_size: int = 64,
        attribute: str | None = None,
        flip: bool = True,
        root: str | None = None,
        download: bool = False,
        num_workers: int = 2,
        on_error: str = "raise",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self._look_in(root, download)
        super().__init__(batch_size, seed, flip, self.folder, image_size, 3, num_workers, on_error, max_pixels)
        self.attribute = attribute

    def _fetch(self, root: str) -> object:
        return datasets.CelebA(root, download=True)

    @property
    def _by_hand(self) -> str:
        return f"unpack {_IMAGES}.zip in {self.root / _FOLDER} and put {', '.join(name for name, _ in _lists())} there"

    def _wrong(self) -> str | None:
        """Checks only the folder of the images."""
        folder = self.root / _FOLDER
        wrong = first_wrong((folder / name, md5) for name, md5 in _lists())
        return wrong or (None if (folder / _IMAGES).is_dir() else f"{folder / _IMAGES} is missing")

    def _load(self) -> None:
        self._find()
        sources = {split: datasets.CelebA(str(self.root), split, target_type=[]) for split in ("train", "test")}
        names = [name for name in sources["train"].attr_names if name]
        said = f"data.attribute={self.attribute} is not an attribute of CelebA: choose one of {', '.join(names)}."
        require(self.attribute in (None, *names), said)
        folder = self.root / _FOLDER / _IMAGES
        listed = {split: [folder / name for name in source.filename] for split, source in sources.items()}
        digests = self._usable([path for paths in listed.values() for path in paths])
        shown = {split: [i for i, path in enumerate(listed[split]) if path in digests] for split in listed}
        given: dict[str, dict[str, Tensor]] = {split: {} for split in listed}
        self.num_classes = None
        if self.attribute is not None:
            column = names.index(self.attribute)
            given = {split: {"classes": source.attr[shown[split], column]} for split, source in sources.items()}
            self.num_classes = 2
        self._hold({split: [listed[split][i] for i in shown[split]] for split in listed}, given, digests)


def _lists() -> list[tuple[str, str]]:
    """Name and MD5 of each list beside the images."""
    return [(name, md5) for _, md5, name in datasets.CelebA.file_list if name.endswith(".txt")]
