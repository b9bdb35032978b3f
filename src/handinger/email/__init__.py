"""A worker has an address: mail in, mail out. Nothing here is loaded before it is needed."""
