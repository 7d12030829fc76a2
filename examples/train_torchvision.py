"""Train a detection model of torchvision, by its name or built by your own function, on a COCO folder.

    python examples/train_torchvision.py fcos_resnet50_fpn data/shapes fcos.safetensors

``conf/model/torchvision.yaml`` accepts the checkpoint as ``weights``. The checkpoints of the small
torchvision models in ``checkpoints/`` were trained by this program, with names such as
``detexport.modeling.meta_arch.torchvision_small.fcos``; RetinaNet with ``--iterations 1200``, SSDlite with
``--iterations 3000 --learning-rate 0.003``.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from detexport.checkpoint import write_state_dict
from detexport.config import get_cfg
from detexport.data.coco import load_coco
from detexport.data.mapping import GroundTruth
from detexport.engine.evaluation import evaluate
from detexport.engine.training import TrainingSettings, seed_everything, train
from detexport.modeling import build_model
from detexport.system.files import read_json, write_json

KEYPOINT_SIGMA = 0.05
"""OKS sigma of the keypoints of the synthetic shapes."""


def new_model(name: str, num_classes: int, num_keypoints: int | None) -> Any:
    """Build the model from a configuration, with the interface of detexport."""
    cfg = get_cfg()
    cfg.merge_from_tree(
        {
            "INPUT": {"FORMAT": "RGB"},
            "MODEL": {
                "META_ARCHITECTURE": "TorchvisionDetector",
                "DEVICE": "cpu",
                "TORCHVISION": {
                    "NAME": name,
                    "NUM_CLASSES": num_classes,
                    "NUM_KEYPOINTS": num_keypoints,
                    # Images keep their size; SSD resizes them itself.
                    "MIN_SIZE": None if "ssd" in name else 0,
                },
            },
        },
        source="train_torchvision.py",
    )
    return build_model(cfg)


def main() -> None:
    """Train and evaluate on the validation split; write the averaged weights and their metrics."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("data", type=Path)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--iterations", type=int, default=800)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=0.002)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    settings = TrainingSettings(
        iterations=arguments.iterations,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        warmup_iterations=arguments.iterations // 10,
        weight_decay=0.05,
        gradient_norm=5.0,
        average_decay=0.99,
        flip=True,
        seed=0,
        threads=arguments.threads,
    )
    torch.set_num_threads(settings.threads)
    seed_everything(settings.seed)
    keypoints = "keypoint" in arguments.name
    truth = GroundTruth(masks="mask" in arguments.name, keypoints=keypoints, min_keypoints=int(keypoints))
    names = read_json(arguments.data / "dataset.json")
    train_set, val_set = (
        load_coco(arguments.data, split, None, truth.annotations) for split in ("train", "val")
    )
    num_keypoints = len(names["keypoints"]) if keypoints else None
    model = new_model(arguments.name, len(train_set.class_names), num_keypoints)
    averaged = train(model, train_set, settings, truth).weights
    model.load_state_dict(averaged, strict=False)
    accuracy = evaluate(model, val_set, (KEYPOINT_SIGMA,) * (num_keypoints or 0))
    for metric, value in accuracy.items():
        print(f"{metric}: {value:.3f}")
    write_state_dict(averaged, arguments.checkpoint)
    write_json(
        arguments.checkpoint.with_suffix(".json"),
        {metric: round(value, 4) for metric, value in accuracy.items()},
    )


if __name__ == "__main__":
    main()
