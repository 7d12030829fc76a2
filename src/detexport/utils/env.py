"""The environment of a run: seeds of the random number generators."""

import importlib
import logging
import os
import random
import runpy

import numpy as np
import torch

from detexport.errors import ConfigError

logger = logging.getLogger(__name__)


def seed_all_rng(seed: int | None = None) -> None:
    """Seed the random number generators of Python, numpy and torch.

    Args:
        seed: None draws one from the operating system.
    """
    if seed is None:
        seed = int.from_bytes(os.urandom(4), "little")
        logger.info("seed: %d", seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def setup_environment() -> None:
    """Call ``setup_environment`` of the file or module that ``DETECTRON2_ENV_MODULE`` names, if it is set.

    Raises:
        ConfigError: it has no such function.
    """
    name = os.environ.get("DETECTRON2_ENV_MODULE")
    if not name:
        return
    members = runpy.run_path(name) if name.endswith(".py") else vars(importlib.import_module(name))
    if not callable(members.get("setup_environment")):
        raise ConfigError(
            "the module in DETECTRON2_ENV_MODULE has no function setup_environment",
            got=f"DETECTRON2_ENV_MODULE={name}",
            expected="a file *.py or a module with setup_environment()",
            remedy="unset the variable, or correct it",
        )
    members["setup_environment"]()
