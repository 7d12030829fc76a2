"""Where the work of a validation and of jobs is done: on this machine, or on a cluster."""
