"""File trees: reading every kind of file with its metadata, and putting it back."""
