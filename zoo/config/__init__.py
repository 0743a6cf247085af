"""Configuration: recipes, options, freezing plans; never imports torch."""
