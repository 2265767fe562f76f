"""Fashion-MNIST: MNIST's shape and format, harder pictures."""

from diffusion_lab.data.idx import IdxImages


class FashionMNIST(IdxImages):
    """70,000 grey pictures of clothes in ten classes (H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST, arXiv 1708.07747, 2017)."""

    name = "fashion_mnist"
    title = "Fashion-MNIST"
    class_names = (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    )  # fmt: skip
    raw = "FashionMNIST/raw"
    package = "dataset-fashion-mnist"

    def _fetch(self, root: str) -> object:
        # Imported here: it takes a second, and only a download needs it.
        from torchvision import datasets

        return datasets.FashionMNIST(root, download=True)
