"""One file per module of the package."""
