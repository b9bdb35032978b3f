"""Carries out turns with a language model and tools. A driver, like the API: nothing knows it."""
