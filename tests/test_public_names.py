"""The names that detectron2's users import, under the root ``detexport``."""

import importlib

import pytest

NAMES = {
    "checkpoint": "DetectionCheckpointer",
    "config": "CfgNode get_cfg",
    "modeling": (
        "ANCHOR_GENERATOR_REGISTRY BACKBONE_REGISTRY META_ARCH_REGISTRY PROPOSAL_GENERATOR_REGISTRY "
        "ROI_BOX_HEAD_REGISTRY ROI_HEADS_REGISTRY ROI_KEYPOINT_HEAD_REGISTRY ROI_MASK_HEAD_REGISTRY "
        "RPN_HEAD_REGISTRY SEM_SEG_HEADS_REGISTRY build_backbone build_model build_proposal_generator "
        "build_roi_heads"
    ),
    "modeling.backbone": "BACKBONE_REGISTRY",
    "modeling.meta_arch": "META_ARCH_REGISTRY SEM_SEG_HEADS_REGISTRY",
    "modeling.proposal_generator": "PROPOSAL_GENERATOR_REGISTRY RPN_HEAD_REGISTRY",
    "modeling.roi_heads": (
        "ROI_BOX_HEAD_REGISTRY ROI_HEADS_REGISTRY ROI_KEYPOINT_HEAD_REGISTRY ROI_MASK_HEAD_REGISTRY"
    ),
    "structures": (
        "BitMasks BoxMode Boxes ImageList Instances Keypoints PolygonMasks pairwise_ioa pairwise_iou "
        "polygons_to_bitmask"
    ),
    "structures.boxes": "pairwise_intersection",
    "structures.masks": "BitMasks PolygonMasks polygons_to_bitmask",
    "utils.events": (
        "CommonMetricPrinter EventStorage EventWriter JSONWriter TensorboardXWriter get_event_storage"
    ),
    "data": (
        "DatasetCatalog DatasetMapper MetadataCatalog build_detection_test_loader "
        "build_detection_train_loader get_detection_dataset_dicts"
    ),
    "data.datasets": "load_coco_json register_coco_instances",
    "data.detection_utils": (
        "annotations_to_instances build_augmentation check_image_size create_keypoint_hflip_indices "
        "filter_empty_instances read_image transform_instance_annotations transform_keypoint_annotations "
        "transform_proposals"
    ),
    "data.samplers": "InferenceSampler RepeatFactorTrainingSampler TrainingSampler",
    "data.transforms": (
        "AugInput Augmentation AugmentationList CropTransform HFlipTransform NoOpTransform RandomCrop "
        "RandomFlip Resize ResizeShortestEdge ResizeTransform Transform TransformList VFlipTransform"
    ),
    "engine": "DefaultPredictor",
    "evaluation": (
        "COCOEvaluator COCOPanopticEvaluator DatasetEvaluator DatasetEvaluators SemSegEvaluator "
        "inference_context inference_on_dataset print_csv_format verify_results"
    ),
    "projects.point_rend": "add_pointrend_config",
    # Where detectron2's modules have other names than those here.
    "layers.batch_norm": "FrozenBatchNorm2d get_norm",
    "layers.shape_spec": "ShapeSpec",
    "data.common": "DatasetFromList MapDataset",
    "modeling.proposal_generator.build": "build_proposal_generator",
    "modeling.roi_heads.cascade_rcnn": "CascadeROIHeads",
    "modeling.roi_heads.roi_heads": "ROIHeads Res5ROIHeads StandardROIHeads select_foreground_proposals",
}


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module, names in NAMES.items() for name in names.split()]
)
def test_the_name_is_there(module: str, name: str) -> None:
    assert callable(getattr(importlib.import_module(f"detexport.{module}"), name)) or name.endswith(
        ("REGISTRY", "Catalog")
    )


@pytest.mark.parametrize("package", ["data", "engine", "evaluation", "structures"])
def test_a_package_offers_what_it_lists_and_nothing_else(package: str) -> None:
    module = importlib.import_module(f"detexport.{package}")
    assert all(hasattr(module, name) for name in module.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'no_such_name'"):
        _ = module.no_such_name
