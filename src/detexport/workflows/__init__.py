"""The use cases: plain arguments in, results out, nothing printed. Stages and the command line call them."""
