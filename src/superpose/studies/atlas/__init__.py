"""The atlas: every registered backbone on every registered task, with one budget."""
