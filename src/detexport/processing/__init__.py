"""Pre- and post-processing of the graph, in numpy."""
