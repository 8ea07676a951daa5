"""Hostile input, many visitors and sudden ends, counted: `make fuzz`, or `python -m fuzz PART`.

The figures are written to docs/reliability.json, from which docs/reliability.md is made.
`make test` runs a small share of the same functions.
"""
