"""Small wrong changes of the rules, and whether the cases notice them."""
