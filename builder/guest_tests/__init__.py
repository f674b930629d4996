"""Tests that pytest-testinfra runs against a clone, in a process of its own. Nothing of golden imports them."""
