"""The control plane: accounts, catalog, jobs, schedules, money. It owns the database.

It never handles a byte of customer data and never opens a repository: that is the agents'
and the gateway's part, which it meets over HTTP only.
"""
