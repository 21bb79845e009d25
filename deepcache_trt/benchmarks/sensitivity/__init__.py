"""How much error each group of layers causes in 8 bits, and which of them a budget leaves there."""
