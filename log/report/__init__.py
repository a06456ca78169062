"""What a session made, in one page: ``python -m tool.report SESSION``."""
