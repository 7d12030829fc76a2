from detectron2.config import CfgNode


def add_peak_config(cfg):
    cfg.MODEL.PEAK = CfgNode()
    cfg.MODEL.PEAK.IN_FEATURE = "res3"
    cfg.MODEL.PEAK.NUM_CLASSES = 3
