"""Execution engines: run validations, predictions and jobs on this machine or on a Ray cluster."""
