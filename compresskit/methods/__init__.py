"""The techniques, one module each; a recipe's stages name them."""
