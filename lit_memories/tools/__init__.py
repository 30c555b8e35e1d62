"""Commands beside the recipes; cli.py lists them."""
