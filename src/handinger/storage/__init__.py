"""The schema, the database and the blobs; nothing here knows what a worker does."""
