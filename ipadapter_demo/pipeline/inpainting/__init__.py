"""Replacing a part of a picture, and nothing else of it."""
