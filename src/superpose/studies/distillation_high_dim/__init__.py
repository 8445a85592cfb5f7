"""High-dimensional analysis of knowledge distillation: weak-to-strong generalisation and scaling laws."""
