"""`make test-matrix`: the end-to-end suite on every shape, one after the other."""
