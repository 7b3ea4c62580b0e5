"""Self-supervised pretraining of emotion2vec: its method, its loop and its recipes."""
