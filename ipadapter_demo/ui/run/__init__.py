"""From a click to what the page shows: running, restoring, changing models, uploads and texts."""
