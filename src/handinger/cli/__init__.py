"""The command line. Commands about workers go through the SDK; the others work on the server's own
modules and need them installed. Each module is loaded only when its command runs.
"""
