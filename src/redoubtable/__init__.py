"""Redoubtable."""
