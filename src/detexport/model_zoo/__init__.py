"""The model zoo of detectron2 by its names: configurations, checkpoints' URLs and models."""

from detexport.model_zoo.zoo import get, get_checkpoint_url, get_class_names, get_config, get_config_file

__all__ = ["get", "get_checkpoint_url", "get_class_names", "get_config", "get_config_file"]
