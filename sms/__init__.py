"""The nouns of the gateway and the rules of text: pure, standard library only."""
