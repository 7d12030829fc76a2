"""Retraining runs: retrain, export, validate and promote, as a scheduler does at night."""
