"""Wrappers for private or unstable APIs of other libraries."""
