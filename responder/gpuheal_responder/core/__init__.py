"""The decision core: pure, synchronous, standard library only. Everything it knows arrives as an argument."""
