"""A job as seen from the notebook that started it: its machines, how far it is, and why it failed."""
