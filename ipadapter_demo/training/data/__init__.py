"""Pictures with captions: where they are, and how a run reads them, exactly resumable."""
