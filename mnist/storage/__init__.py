"""Models and training runs on disk, written so that nothing is lost and read without running any code in them."""
