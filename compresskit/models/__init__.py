"""Models that a recipe can use by name, and `load` for those that it brings along."""
