"""A turn's life: accepted, claimed, journaled, ended; and how it is read. Knows no agent."""
