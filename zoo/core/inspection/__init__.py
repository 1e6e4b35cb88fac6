"""What `python -m zoo inspect` finds in a data set, a concern a file; report.py puts them together."""
