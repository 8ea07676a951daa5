"""The recipes of the built-in tabletop model, and the parts that only they need."""
