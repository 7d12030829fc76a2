from detectron2.config import CfgNode as CN


def add_light_config(cfg):
    cfg.MODEL.LIGHT = CN()
    cfg.MODEL.LIGHT.WIDTHS = [8, 16, 24, 32]
    cfg.MODEL.LIGHT.NORM = "BN"
