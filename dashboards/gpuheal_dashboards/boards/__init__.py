"""The five boards: what each shows, and of which series."""
