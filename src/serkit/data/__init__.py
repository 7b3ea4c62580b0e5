"""Where speech comes from: recordings, manifests, labels, corpora and folds. Nothing here needs PyTorch."""
