"""One intent per file; only flows join sources and the repository."""
