"""Plans, and the session that runs variants on shared buffers."""
