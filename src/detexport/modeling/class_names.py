"""Class and keypoint names of a model, in its contract."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from detexport.contract import Contract, checked_names
from detexport.errors import ConfigError, listed


def count_classes(net: Any) -> dict[str, int | None]:
    """Count the ``things``, ``stuff`` and ``keypoints`` of a model, without kinds that it does not output.

    The number is None if the model does not declare it.

    ``things`` are the classes of instances. ``stuff`` are the classes of pixels; the first stands for all
    things.
    """
    shapes = {spec.name: spec.shape for spec in net.contract(()).outputs}
    counts: dict[str, Any] = {}
    if "pred_classes" in shapes:
        counts["things"] = net.num_classes
    if "sem_seg" in shapes:
        counts["stuff"] = shapes["sem_seg"][0]
    if "pred_keypoints" in shapes:
        counts["keypoints"] = shapes["pred_keypoints"][1]
    return counts


def named_contract(
    net: Any,
    names: Mapping[str, Sequence[str]],
    *,
    keypoint_sigmas: Sequence[float],
    what: str,
    remedy: str,
) -> Contract:
    """Return a model's contract with its class names; keypoint names may be missing.

    Args:
        net: the model.
        names: for each kind of ``count_classes``, one name per class.
        keypoint_sigmas: ``TEST.KEYPOINT_OKS_SIGMAS``, which may be empty.
        what: name of the model, for errors.
        remedy: how to give other names, for errors.

    Raises:
        ConfigError: the names are not lists of strings, or the number of names or sigmas does not fit the
            model.
    """
    counts = count_classes(net)
    names = {kind: checked_names(found, f"the names of {what}'s {kind}") for kind, found in names.items()}
    for kind, found in names.items():
        count = counts.get(kind, 0)
        if count is not None and len(found) != count and (found or kind != "keypoints"):
            raise ConfigError(
                f"{what} and the class names do not fit",
                got=f"{len(found)} names: {listed(found)}",
                expected=f"{count} {kind}, as many as the model has",
                remedy=remedy.format(kind=kind),
            )
    keypoints = counts.get("keypoints", 0)
    if keypoints and keypoint_sigmas and len(keypoint_sigmas) != keypoints:
        raise ConfigError(
            f"{what} and the sigmas of its keypoints do not fit",
            got=f"TEST.KEYPOINT_OKS_SIGMAS: {len(keypoint_sigmas)} sigmas",
            expected=f"{keypoints}, one for each keypoint that the model has",
            remedy="set TEST.KEYPOINT_OKS_SIGMAS, or leave it empty for COCO's 17 keypoints",
        )
    return replace(
        net.contract(tuple(names.get("things", ()))),
        stuff_class_names=tuple(names.get("stuff", ())),
        keypoint_names=tuple(names.get("keypoints", ())),
        keypoint_sigmas=tuple(map(float, keypoint_sigmas)) if keypoints else (),
        num_classes=counts.get("things"),
    )
