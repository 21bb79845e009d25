"""Models that diffusers has no definition of, in its manner."""
