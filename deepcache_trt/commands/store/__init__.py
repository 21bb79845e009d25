"""What has been built, and keeping it in order."""
