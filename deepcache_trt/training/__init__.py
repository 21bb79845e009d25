"""What is learnt for a policy: a router, on a model in plain PyTorch."""
