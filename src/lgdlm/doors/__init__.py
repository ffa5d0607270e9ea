"""Old commands and classes: thin adapters onto the core, behind the folders at the root of the checkout."""
