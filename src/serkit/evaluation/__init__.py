"""Predictions become judgement: metrics, intervals, calibration, reports. Nothing here needs PyTorch or a model."""
