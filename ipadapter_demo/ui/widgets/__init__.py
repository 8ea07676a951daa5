"""Widgets that tabs share."""
