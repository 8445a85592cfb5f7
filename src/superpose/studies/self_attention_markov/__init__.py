"""From Self-Attention to Markov Models, as a study."""
