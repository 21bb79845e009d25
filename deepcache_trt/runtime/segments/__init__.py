"""Variants that run as lists of segments."""
