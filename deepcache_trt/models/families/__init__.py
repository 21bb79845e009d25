"""The families: one file for each kind of model, with all that is known of it. `models.registry` lists them."""
