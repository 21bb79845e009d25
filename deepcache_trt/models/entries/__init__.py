"""The models of the catalogue, a file for each kind."""
