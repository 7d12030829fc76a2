"""The targets that can be shipped, with their defaults."""
