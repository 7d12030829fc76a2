"""Parity: compare an artifact with the eager model.

``compare`` measures one image, ``validate`` a whole artifact against the outputs that
``detexport.reference`` stored. Nothing is imported here.
"""
