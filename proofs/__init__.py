"""Long proofs of the relay's promises. Each prints its seed and can be repeated with it."""
