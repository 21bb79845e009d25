"""Check what works on this machine, and how fast."""
