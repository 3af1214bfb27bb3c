"""The native REST API under ``/api/v1``, one file for each resource.

It translates and nothing else: a request to a service's arguments, a row to a document.
Rules are the services', and what surfaces share is in `edge`.
"""
