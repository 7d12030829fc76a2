"""A script for detectron2: build a project's model, save it, load it, run it; prints the number of detections."""

import sys

import torch

import detectron2
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.utils.logger import setup_logger


def main(project, config, folder):
    logger = setup_logger(name="evaluate_net")
    module = __import__(project)
    cfg = get_cfg()
    for name in dir(module):
        if name.startswith("add_"):
            getattr(module, name)(cfg)
    cfg.merge_from_file(config)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    for name, parameter in model.named_parameters():
        if "cls_score.weight" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    DetectionCheckpointer(model, save_dir=folder).save("model_final")
    model = build_model(cfg).eval()
    DetectionCheckpointer(model).load(f"{folder}/model_final.pth")
    image = torch.arange(3 * 96 * 128).reshape(3, 96, 128) % 251
    with torch.no_grad():
        (output,) = model([{"image": image.to(torch.uint8)}])
    logger.info("detectron2 %s", detectron2.__version__)
    print("detections:", len(output["instances"]))


if __name__ == "__main__":
    main(*sys.argv[1:])
