"""The gateway: HTTP that carries bytes, between clients and the stores of regions.

It speaks restic's REST protocol, serves what is in snapshots as files, folders and archives,
and keeps plain ZIP archives. Who may do what is told by an `Authority`, request by request; it
never sees the database, and never decides what is kept.
"""
