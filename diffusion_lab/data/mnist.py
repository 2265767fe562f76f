"""MNIST: the handwritten digits that every method was first shown on."""

from diffusion_lab.data.idx import IdxImages


class MNIST(IdxImages):
    """70,000 grey scans of the digits 0 … 9 (LeCun, Bottou, Bengio, Haffner 1998). Mirrored digits are not digits."""

    name = "mnist"
    title = "MNIST"
    class_names = tuple("0123456789")
    raw = "MNIST/raw"

    def _fetch(self, root: str) -> object:
        # Imported here: it takes a second, and only a download needs it.
        from torchvision import datasets

        return datasets.MNIST(root, download=True)
