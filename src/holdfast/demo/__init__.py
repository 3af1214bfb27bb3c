"""Demonstrations: the main job of Holdfast on real files, with every byte compared."""
