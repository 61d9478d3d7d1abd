"""Models, model cards and checkpoints on disk: written atomically, and read without running any code in them."""
