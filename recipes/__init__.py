"""Recipes: how what the package ships was made."""
