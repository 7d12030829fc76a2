"""Precomputed proposals, an input of the model: Fast R-CNN (Girshick 2015)."""

from detexport.config import CfgNode
from detexport.layers import ShapeSpec
from detexport.modeling.registries import PROPOSAL_GENERATOR_REGISTRY


@PROPOSAL_GENERATOR_REGISTRY.register(name="PrecomputedProposals")
def no_proposal_generator(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> None:
    """Return None: the inputs contain the ``proposals``."""
