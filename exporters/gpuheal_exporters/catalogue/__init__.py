"""What a code means and asks for, by the order of authority.

- `codes`: the published meaning of a bare code, and the resolution of every event
- `nvlink5`, `nvlink4`: events that are decoded instead of looked up
- `resolution`: the actions from mild to strong
- `table`: reads the tables in `data/`
"""
