"""A fresh process reads the registry: one version a target, and it predicts as eager does."""

import json
import sys
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from pycocotools import mask as coco_mask

receipts, models = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
mlflow.set_tracking_uri(receipts["tracking_uri"])
client = mlflow.MlflowClient()
expected_names = {"mask_rcnn-tracing", "mask_rcnn-scripting", "mask_rcnn-onnx"}
found = {model.name for model in client.search_registered_models()}
assert found == expected_names, f"got {found}, expected {expected_names}"
assert receipts["refused"] == []
assert len(receipts["registered"]) == len(expected_names)

for entry in receipts["registered"]:
    versions = client.search_model_versions(f"name='{entry['name']}'")
    assert [str(version.version) for version in versions] == [entry["version"]], versions
    model = mlflow.pyfunc.load_model(f"models:/{entry['name']}/{entry['version']}")
    assert model.metadata.signature is not None
    reference = models / entry["model"] / "reference"
    samples = [
        s
        for s in json.loads((reference / "reference.json").read_text())["samples"]
        if s["kind"] == "data" and s["scale"] == 1.0
    ]
    detections = 0
    for sample in samples:
        content = (Path("data/shapes/images/val") / sample["file"]).read_bytes()
        row = model.predict(pd.DataFrame({"image": [content]}))
        row = row.iloc[0] if isinstance(row, pd.DataFrame) else row[0]
        with np.load(reference / "samples" / f"{sample['id']}.npz") as eager:
            np.testing.assert_array_equal(list(row["classes"]), eager["pred_classes"])
            np.testing.assert_allclose(list(row["scores"]), eager["scores"], atol=2e-4)
            boxes = np.array([list(box) for box in row["boxes"]]).reshape(-1, 4)
            np.testing.assert_allclose(boxes, eager["pred_boxes"], atol=1e-2)
            detections += len(eager["scores"])
            shape = tuple(eager["masks_shape"])
            expected = np.unpackbits(eager["masks_packed"], count=int(np.prod(shape))).reshape(shape)
            for found_mask, mask in zip(row["masks"], expected, strict=True):
                differing = (coco_mask.decode(dict(found_mask)) != mask).sum()
                assert differing <= max(9, 0.005 * mask.sum()), f"{differing} px of a mask differ"
    assert detections > 0
    name = f"{entry['name']} version {entry['version']}"
    print(f"{name}: {detections} detections as eager on {len(samples)} images")
print(f"{len(receipts['registered'])} passed, 0 failed")
