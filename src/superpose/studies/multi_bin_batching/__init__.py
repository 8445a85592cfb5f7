"""Multi-bin batching: static batches of requests of similar predicted length (arXiv 2412.04504)."""
