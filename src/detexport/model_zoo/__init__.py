"""The model zoo of detectron2: configurations, URLs of checkpoints, and models by name."""

from detexport.model_zoo.zoo import get, get_checkpoint_url, get_class_names, get_config, get_config_file

__all__ = ["get", "get_checkpoint_url", "get_class_names", "get_config", "get_config_file"]
