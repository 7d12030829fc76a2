"""The environment of a run: seeds of the random number generators."""

import logging
import os
import random

import numpy as np
import torch

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
    """Do nothing: detectron2's environment variables have no counterpart here."""
