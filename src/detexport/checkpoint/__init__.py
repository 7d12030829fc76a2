"""Checkpoints: read without running what they say, matched strictly, saved in one safe format."""

from detexport.checkpoint.load import LoadReport, load_weights, match_weights
from detexport.checkpoint.read import read_state_dict, write_state_dict

__all__ = ["LoadReport", "load_weights", "match_weights", "read_state_dict", "write_state_dict"]
