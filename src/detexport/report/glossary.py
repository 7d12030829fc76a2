"""The terms of the report; each section lists those that it uses."""

TERMS = {
    "job": "One model for one target. The pipeline exports, validates, measures and registers it.",
    "target": "What is shipped: an artifact together with the runtime that runs it, and its options.",
    "artifact": "The exported model: the files that an application loads instead of the Python model.",
    "runtime": "The engine that loads and runs an artifact: PyTorch, ONNX Runtime, OpenVINO.",
    "eager": "The PyTorch model itself, in float32. Every artifact is compared with it.",
    "passed": "All four verdicts on the artifact are positive: contract, numerics, matching, accuracy.",
    "registered": "The artifact is a version of a model in the MLflow registry, with its evidence.",
    "champion": (
        "The version that users load by the alias @champion. The alias moves only to a version that passes "
        "the promotion gate, or by a rollback."
    ),
    "AP": (
        "Average precision, COCO's metric, from 0 to 1: the area under the precision-recall curve, averaged "
        "over classes and over IoU thresholds from 0.50 to 0.95. Box AP compares boxes, mask AP masks, "
        "keypoint AP keypoints."
    ),
    "delta": "The metric of the artifact minus the eager model's, on the same images. Negative is worse.",
    "AR": "Average recall: the fraction of annotated objects that the proposals cover.",
    "PQ": "Panoptic quality: how many segments are right, and how well they overlap, from 0 to 1.",
    "mIoU": "Mean intersection over union of the classes of pixels, from 0 to 1.",
    "IoU": "Intersection over union: the overlap of two boxes or masks, from 0 to 1 (equal).",
    "precision": "The fraction of the returned detections that are right.",
    "recall": "The fraction of the annotated objects that are detected.",
    "p50": "The median latency: half of the calls took less.",
    "p90, p99": "Latencies that 90 % and 99 % of the calls did not exceed.",
    "latency": "Time from one decoded image to its detections, batch size 1, on the machine named here.",
    "size": "The artifact's files together.",
    "largest error": (
        "The largest numerical difference from the eager model on any input, as a fraction of its limit. "
        "Above 100 % the job does not pass."
    ),
    "limit": (
        "The largest numerical error that is allowed, from conf/parity. “x scale”: multiplied by the size of "
        "the output relative to that of the graph's image."
    ),
    "95 % interval": "The interval that holds the delta in 95 % of the bootstrap resamples of the images.",
    "noise floor": (
        "How much the eager model differs from itself when it runs with another number of threads, memory "
        "format or device. Limits are widened to it, to at most ten times their table value. An artifact may "
        "be further away and still pass."
    ),
    "paired": "A detection of the artifact and one of the eager model, of one class, that overlap enough.",
    "missing, extra": "A detection that only the eager model has; one that only the artifact has.",
    "decided by": (
        "The threshold or the better detection that excluded it on the other side; distance: how far it was "
        "from that."
    ),
    "at the edge": "Within the tolerance of a threshold, so that rounding explains it. It is no failure.",
    "undetermined": "The eager model's own runs do not agree about it. It is no failure.",
    "declared support": (
        "The image sizes and batch sizes that the target declares. Inputs outside of it are not run."
    ),
    "contract": "Names, types and shapes of inputs and outputs, thresholds, and the pre-processing.",
    "raw outputs": (
        "The graph returns small masks relative to their boxes; post-processing pastes them into the image."
    ),
    "difference": (
        "Pixels in which the masks or segments of a class differ (magenta), missing detections (red) and "
        "extra ones (orange), over the grey image."
    ),
    "sha256": "The digest of a file's content. Two files with one digest are the same.",
    "weights": "The checkpoint that the model was filled with, after conversion.",
    "revision": "The commit of this repository that the version was registered from.",
    "certificate": "The file that ties the verdict to this artifact, its inputs, its runtime and versions.",
}
