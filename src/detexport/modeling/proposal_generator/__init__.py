"""Proposal generators: feature maps -> boxes that may hold an object."""

from detexport.modeling.proposal_generator.precomputed import no_proposal_generator
from detexport.modeling.proposal_generator.rpn import RPN, RPNHead, build_proposal_generator

__all__ = ["RPN", "RPNHead", "build_proposal_generator", "no_proposal_generator"]
