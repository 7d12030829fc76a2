"""A model whose Python takes another way for some sizes of the image than for others."""

from torch import Tensor

from detexport.modeling import GeneralizedRCNN


class BranchingRCNN(GeneralizedRCNN):
    """Sees images of an odd width upside down; a trace keeps the way that its sample takes."""

    def normalize(self, image: Tensor) -> Tensor:
        image = super().normalize(image)
        return image.flip(1) if image.shape[-1] % 2 else image
