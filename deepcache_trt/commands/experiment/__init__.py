"""The papers' experiments on caching, by name."""
