"""Sandboxes: untrusted commands, separated from the host by bubblewrap. See docs/sandbox.md."""
