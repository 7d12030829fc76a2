"""Files, processes, installed packages and secrets; used by all other packages."""
