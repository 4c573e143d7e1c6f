"""Recipes that make students: options, identity, and one builder each."""
