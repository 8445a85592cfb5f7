"""Task superposition on a model and tasks of the user's own."""
