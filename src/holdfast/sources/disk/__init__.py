"""Disks: extents over a reader, and their export."""
