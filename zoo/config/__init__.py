"""How to train: recipes, options, freezing plans; never imports torch."""
