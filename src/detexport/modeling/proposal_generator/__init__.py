"""Proposal generators: feature maps -> proposals."""

from detexport.modeling.proposal_generator.precomputed import no_proposal_generator
from detexport.modeling.proposal_generator.rpn import (
    RPN,
    RPNHead,
    StandardRPNHead,
    build_proposal_generator,
    build_rpn_head,
    proposal_segments,
)
from detexport.modeling.proposal_generator.rrpn import RRPN
from detexport.modeling.registries import PROPOSAL_GENERATOR_REGISTRY, RPN_HEAD_REGISTRY

__all__ = [
    "PROPOSAL_GENERATOR_REGISTRY",
    "RPN",
    "RPN_HEAD_REGISTRY",
    "RRPN",
    "RPNHead",
    "StandardRPNHead",
    "build_proposal_generator",
    "build_rpn_head",
    "no_proposal_generator",
    "proposal_segments",
]
