"""`gpuheal rules lint`: what has gone wrong in public rule files and Alertmanager configurations."""
