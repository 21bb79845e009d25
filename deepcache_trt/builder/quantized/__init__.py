"""Components of which some layers compute in 8 bits: which these are, and how their activations are observed."""
