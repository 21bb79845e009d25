"""What a trained router is for."""
