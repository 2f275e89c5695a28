"""What a site changes of the rules without a fork: one file, read strictly, and what follows from it."""
