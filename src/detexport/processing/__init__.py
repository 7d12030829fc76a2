"""Before and after the graph, in numpy: its inputs, and what follows its outputs."""
