"""MambaFormer: which in-context tasks need state, which need retrieval, and a stack with both (arXiv 2402.04248)."""
