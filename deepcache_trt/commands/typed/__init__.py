"""What commands share: options that several have, and how they print."""
