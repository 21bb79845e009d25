"""Drawing for many."""
