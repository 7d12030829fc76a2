"""Files, processes, installed packages and secrets: what every other part builds on."""
