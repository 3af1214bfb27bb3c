"""Lium's API, as far as its published command line needs it for pods and their backups.

Source of the facts: the package ``lium.io`` 0.32.0, its requests and what it reads of the
answers. A pod is a host of the account, its one backup configuration the host's oldest
schedule, a backup log a snapshot's row, a restore log a restore.
"""
