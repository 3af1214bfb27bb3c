"""What can be captured and put back. Knows nothing of the repository."""
