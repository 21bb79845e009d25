"""One file a command, whose function of the same name it is; `cli` registers them."""
