"""The demo, counting operations, and what a store holds."""
