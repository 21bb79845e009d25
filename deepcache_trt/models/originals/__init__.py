"""Checkpoints in the layouts of the code that models were first published with, a file for each."""
