"""A diffusers scheduler reduced to coefficients: the table, the probe that makes it, the trial run that it watches."""
