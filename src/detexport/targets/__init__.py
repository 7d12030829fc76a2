"""The targets, with their defaults."""
