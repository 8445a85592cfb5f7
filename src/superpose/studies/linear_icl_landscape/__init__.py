"""Linear in-context learners: what one layer of attention or H3 learns, on which data (arXiv 2407.10005)."""
