"""Task superposition: LLMs can in-context learn multiple tasks in superposition (arXiv 2410.05603)."""
