"""What a code means and asks for."""
