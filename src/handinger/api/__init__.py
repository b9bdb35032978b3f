"""The HTTP API: one module per resource, each with its routes; `models.py` is what goes over it."""
