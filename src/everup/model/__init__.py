"""The nouns of Everup: frozen values without behaviour towards the outside."""
