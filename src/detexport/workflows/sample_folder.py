"""The folder of a sample: the image that a model is exported with."""

from pathlib import Path

import numpy as np

from detexport.errors import DataError
from detexport.system.atomic import atomic_dir
from detexport.system.files import write_json

IMAGE, INDEX = "image.npy", "sample.json"


def write_sample(image: np.ndarray, folder: Path, *, image_id: int | str, file: str) -> None:
    """Write the image that a model is exported with: ``read_sample`` reads it.

    Args:
        image: uint8 (3, H, W), resized, in the channel order of the model's contract.
        folder: the folder; replaced if it exists.
        image_id: the image's id in its data set, for information.
        file: name of its file, for information.
    """
    with atomic_dir(folder) as partial:
        np.save(partial / IMAGE, image, allow_pickle=False)
        write_json(partial / INDEX, {"image_id": image_id, "file": file, "shape": list(image.shape)})


def read_sample(folder: Path) -> np.ndarray:
    """Return the image that a model is exported with, uint8 (3, H, W).

    Raises:
        DataError: there is none.
    """
    try:
        image: np.ndarray = np.load(folder / IMAGE, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"{folder} holds no sample",
            got=f"{type(error).__name__}: {error}",
            expected=f"a folder with {IMAGE}, as the stage `sample` writes it",
            remedy="run the stage `sample` again",
        ) from error
    return image
