"""The repository: restic's format version 2, written and read in parallel."""
