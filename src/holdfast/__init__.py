"""Holdfast: snapshots and backups that outlive the machine they were taken on."""

__version__ = "0.1.0"
