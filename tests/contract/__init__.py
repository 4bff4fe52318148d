"""What holds for everything that is registered."""
