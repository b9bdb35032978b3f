"""Measures a real server against floors taken in the same run; see README.md beside this file."""
