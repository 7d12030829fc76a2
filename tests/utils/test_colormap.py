"""Colours that differ."""

import numpy as np
import pytest

from detexport.utils.colormap import colormap, random_color, random_colors


def test_colours_differ_and_have_their_range() -> None:
    colours = colormap(rgb=True)
    assert colours.shape == (80, 3)
    assert len(np.unique(colours.round(), axis=0)) == 80
    assert np.array_equal(colormap()[:, ::-1], colours)
    assert colormap(maximum=1).max() <= 1
    with pytest.raises(ValueError, match="1 or 255"):
        colormap(maximum=2)


def test_random_colours_are_of_the_table() -> None:
    table = colormap(rgb=True, maximum=1)
    assert (table == random_color(rgb=True, maximum=1)).all(axis=1).any()
    assert len(np.unique(random_colors(5, rgb=True), axis=0)) == 5


def test_more_different_colours_than_there_are_are_refused() -> None:
    assert len(random_colors(80)) == 80
    with pytest.raises(ValueError, match="80 different colours, got N=81"):
        random_colors(81)
