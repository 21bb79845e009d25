"""The models: what is known of each architecture, where its taps are, and the bundled one."""
