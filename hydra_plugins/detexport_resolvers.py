"""Hydra finds this plug-in by its folder, in DVC as in any Hydra program, and with it our resolvers."""

from detexport.config.composition import register_resolvers

register_resolvers()
