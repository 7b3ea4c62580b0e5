"""From a bundle and a recording to an answer, without PyTorch."""
