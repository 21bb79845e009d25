"""Systems that are compared: each in a process of its own, drawing in turn."""
