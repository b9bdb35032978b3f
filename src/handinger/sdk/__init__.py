"""The Python SDK: an HTTP client of the workers API, sync and async, apart from the server.

Its front door is `from handinger import Handinger, AsyncHandinger`.
"""
