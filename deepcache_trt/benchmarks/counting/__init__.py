"""What a model costs by its graph alone: operations, bytes, memory, and what a GPU could make of them."""
