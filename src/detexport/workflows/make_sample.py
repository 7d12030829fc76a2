"""Make the sample: the image that a model is exported with."""

from pathlib import Path

from detexport.contract import Contract
from detexport.data.coco import CocoDataset, read_record, require_images
from detexport.data.resize import resize_image, resized_size
from detexport.workflows.sample_folder import write_sample


def make_sample(contract: Contract, dataset: CocoDataset, save_dir: Path) -> None:
    """Write the first image of a split, resized by the contract's rule.

    Args:
        contract: the model's.
        dataset: the split.
        save_dir: folder of the sample; replaced if it exists.

    Raises:
        DataError: the split has no image.
    """
    record = require_images(dataset).images[0]
    image = read_record(record, contract.channel_order)
    size = resized_size(record.height, record.width, contract.resize)
    write_sample(resize_image(image, size), save_dir, image_id=record.image_id, file=record.file_name.name)
