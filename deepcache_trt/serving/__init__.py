"""Drawing for many: requests in batches, on Ray Serve behind HTTP, and prompt files on Ray Data."""
