"""Other vendors' APIs, in front of the same services: translation, and no rule of its own.

One package for each vendor; packages do not know each other.
"""
