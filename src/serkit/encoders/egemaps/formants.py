"""Formants: frequencies and bandwidths from the roots of a linear predictor (Atal & Hanauer 1971), as openSMILE has it.

openSMILE looks for the roots of a polynomial whose coefficients after the first have the wrong sign, so that its
"formants" are not the resonances of the vocal tract: a vowel made with 700, 1220 and 2600 Hz gets 1053, 2233 and 3076.
Published eGeMAPS results contain these values, so they are what is computed here.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from serkit.encoders.egemaps.frames import SHORT, SHORT_FFT, hamming, in_blocks

RATE = 11_000
"""Hz; the short frames are brought to this rate by an inverse transform of their own length."""
RESAMPLED = SHORT * RATE // 16_000
ORDER = 11
LOWEST, HIGHEST = 50.0, 5450.0
FORMANTS = 3


@cache
def resampling() -> np.ndarray:
    """Return ``(320, 220)``: a frame at 16 kHz times this is the frame at 11 kHz under the window of the spectra.

    The reference centres the frame among 512 points, keeps the transform's bins below 220 / 2 and returns the first 220
    of 352 points. So what lies above 3.4 kHz and the last quarter of the frame are lost; that is part of what its
    formants are, and kept, like the double weight of the constant part.
    """
    bins, time = np.arange(RESAMPLED // 2), np.arange(SHORT) + (SHORT_FFT - SHORT) // 2
    forward = np.exp(-2j * np.pi * np.outer(time, bins) / SHORT_FFT)
    back = np.exp(2j * np.pi * np.outer(bins, np.arange(RESAMPLED)) * 16_000 / RATE / SHORT_FFT)
    return hamming()[:, None] * (forward @ back).real * 2 / SHORT_FFT


def predictors(frames: np.ndarray) -> np.ndarray:
    """Return the prediction polynomials ``(T, 11)`` without their leading one (autocorrelation method)."""
    resampled = frames @ resampling()
    lags = np.stack(
        [np.einsum("ij,ij->i", resampled[:, lag:], resampled[:, : RESAMPLED - lag]) for lag in range(12)], 1
    )
    polynomial = np.zeros((len(frames), ORDER))
    error = np.where(lags[:, 0] > 0, lags[:, 0], 1.0)
    for order in range(ORDER):
        residual = lags[:, order + 1] + np.einsum("ij,ij->i", polynomial[:, :order], lags[:, order:0:-1])
        reflection = -residual / error
        polynomial[:, :order] += reflection[:, None] * polynomial[:, :order][:, ::-1]
        polynomial[:, order] = reflection
        error = error * (1 - reflection**2)
    return polynomial


def formants(frames: np.ndarray) -> np.ndarray:
    """Return ``(T, 6)``: frequency and bandwidth (Hz) of the three lowest formants of short frames ``(T, 320)``.

    Zero where a frame has fewer.
    """
    return in_blocks(_formants, frames)


def _formants(frames: np.ndarray) -> np.ndarray:
    polynomial = predictors(frames)
    companion = np.zeros((len(polynomial), ORDER, ORDER))
    companion[:, np.arange(1, ORDER), np.arange(ORDER - 1)] = 1
    companion[:, 0, :] = polynomial
    roots = np.linalg.eigvals(companion)
    with np.errstate(divide="ignore"):
        hertz = np.angle(roots) * RATE / (2 * np.pi)
        bandwidth = np.abs(np.log(np.abs(roots))) * RATE / np.pi
    hertz = np.where((hertz >= LOWEST) & (hertz <= HIGHEST), hertz, np.inf)
    order = np.argsort(hertz, axis=1)[:, :FORMANTS]
    hertz, bandwidth = np.take_along_axis(hertz, order, 1), np.take_along_axis(bandwidth, order, 1)
    found = np.isfinite(hertz)
    return np.stack([np.where(found, hertz, 0), np.where(found, bandwidth, 0)], 2).reshape(
        len(polynomial), 2 * FORMANTS
    )
