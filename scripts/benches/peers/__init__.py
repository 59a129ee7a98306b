"""scripts/bench peers: what people use instead, each as its own documentation advises for bulk mail."""
