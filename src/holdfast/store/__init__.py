"""Where objects lie: one protocol (`protocol.py`), its implementations and its wrappers."""
