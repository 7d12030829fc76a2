"""Builder and registry of proposal generators under detectron2's path."""

from detexport.modeling.proposal_generator.rpn import build_proposal_generator
from detexport.modeling.registries import PROPOSAL_GENERATOR_REGISTRY

__all__ = ["PROPOSAL_GENERATOR_REGISTRY", "build_proposal_generator"]
