"""``detexport predict --output``: a folder or bucket of images -> files of detections."""

from pathlib import Path

from detexport.batch_prediction.location import Location
from detexport.errors import DataError
from detexport.execution.engine import Execution, Local
from detexport.system.progress import say
from detexport.workflows.load_detector import is_registered
from detexport.workflows.predict_folder import Request, ResultFormat, predict_folder


def predict_to_output(
    source: str,
    images: str,
    output: str,
    *,
    device: str,
    target: str,
    score_threshold: float,
    part_images: int,
    result_format: str,
    engine: str,
    address: str,
    workers: int,
) -> None:
    """Run a model on all images of a folder; see ``detexport predict --help``.

    Raises:
        DataError: there is no image; or some could not be read, after the results of all others were written.
        DetexportError: see ``predict_folder``.
    """
    request = Request(
        source if is_registered(source) else str(Path(source).absolute()),
        Location.of(images),
        Location.of(output),
        target=target,
        device=device,
        score_threshold=score_threshold,
        part_images=part_images,
    )
    summary = predict_folder(request, _execution(engine, address, workers), ResultFormat(result_format))
    say(f"{output}: {summary.images} images, {summary.predicted} predicted in this run")
    if summary.errors:
        name, reason = summary.errors[0]
        raise DataError(
            f"{len(summary.errors)} of {summary.images} images could not be read",
            got=f"{name}: {reason}",
            expected="image files",
            remedy="the column `error` of the results names them; replace them, and use another --output",
        )


def _execution(engine: str, address: str, workers: int) -> Execution:
    if engine == "local":
        return Local()
    from detexport.execution.ray_data import RayData
    from detexport.execution.ray_engine import Ray

    return RayData(Ray(address=address or None), workers or None)
