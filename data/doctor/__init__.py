"""What would stop a run, found in seconds: see ``data/doctor/__main__.py``."""
