"""What is checked of one model on one backend, in a process of its own."""
