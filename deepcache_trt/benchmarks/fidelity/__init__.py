"""How near pictures are to others, and how good they are."""
