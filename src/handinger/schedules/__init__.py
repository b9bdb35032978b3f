"""When a turn starts by itself, and what comes of the times that were missed."""
