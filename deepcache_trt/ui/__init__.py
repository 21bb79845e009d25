"""A page in the browser: a picture drawn plain and cached, side by side."""
