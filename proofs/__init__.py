"""Long proofs of what the service promises; each prints its seed and can be run again with it."""
