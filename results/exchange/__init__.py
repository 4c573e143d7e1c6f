"""Results of other harnesses in, results of this one out."""
