"""`gpuheal demo`: one fault healed end to end, told as a timeline."""
