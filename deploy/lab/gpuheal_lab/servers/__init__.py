"""Real servers on loopback: found or built, started and ended."""
