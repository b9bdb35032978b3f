"""The web as a worker may use it: guarded requests, pages as Markdown, search. Knows no worker."""
