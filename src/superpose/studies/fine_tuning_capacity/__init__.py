"""Fine-tuning capacity: how many neurons beside a frozen network change N of K labels (arXiv 2408.00359)."""
