"""Convert: artifact -> artifact of another format or precision, calibrated on the training split."""

from pathlib import Path
from typing import Annotated

from typer import Option, echo

from detexport.artifact import read_artifact
from detexport.config.instantiation import instantiate
from detexport.config.params import load_params
from detexport.data.coco import load_coco
from detexport.data.image_samples import ImageSamples
from detexport.system.script import run

CALIBRATION_SPLIT = "train"  # never the split that artifacts are validated on


def main(
    artifact: Annotated[str, Option()],
    source_dir: Annotated[Path, Option()],
    data: Annotated[Path, Option()],
    save_dir: Annotated[Path, Option()],
) -> None:
    """Convert the artifact of SOURCE_DIR, with calibration images of DATA, and write ARTIFACT to SAVE_DIR."""
    conversion = instantiate(load_params(f"artifacts.{artifact}.conversion"))
    converted = conversion.convert(source_dir, samples(source_dir, data), save_dir)
    echo(f"{artifact}: {converted.format} {converted.sha256}")


def samples(source_dir: Path, data: Path) -> ImageSamples:
    """Return the training images as inputs of the graph of SOURCE_DIR; empty if DATA has no such split."""
    contract = read_artifact(source_dir).contract
    annotated = (data / "annotations" / f"instances_{CALIBRATION_SPLIT}.json").is_file()
    images = load_coco(data, CALIBRATION_SPLIT).images if annotated else ()
    return ImageSamples([image.file_name for image in images], contract.channel_order, contract.resize)


if __name__ == "__main__":
    run(main, fixed_hashes=True)
