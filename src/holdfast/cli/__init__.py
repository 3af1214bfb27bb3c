"""The command line: parse, call a flow, print. It decides nothing about data."""
