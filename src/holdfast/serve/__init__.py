"""The composition root: it reads settings and puts the parts of a server together.

Only here do settings become objects. Everything below takes what it needs as parameters.
"""
