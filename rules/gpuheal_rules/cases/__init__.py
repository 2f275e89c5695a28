"""Generated promtool cases: for every alert, what makes it fire, stay quiet, hold and resolve."""
