"""Measurements against real peers, in one run; each prints a table and writes JSON."""
