"""What layers hold: how alike they are, what can be read off them, how utterances lie in them."""
