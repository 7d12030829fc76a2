def add_focal_config(cfg):
    cfg.MODEL.ROI_BOX_HEAD.FOCAL_GAMMA = 2.0
