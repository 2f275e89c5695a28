"""What a site writes: settings and policies, read strictly from YAML."""
