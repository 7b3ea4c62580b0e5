"""Formants: frequencies and bandwidths from the roots of a linear predictor (Atal & Hanauer 1971), as openSMILE has it.

openSMILE looks for the roots of a polynomial whose coefficients after the first have the wrong sign, so that its
"formants" are not the resonances of the vocal tract: a vowel made with 700, 1220 and 2600 Hz gets 1081, 2133 and 2927.
Published eGeMAPS results contain these values, so they are what is computed here.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from serkit.encoders.egemaps.frames import SHORT, SHORT_FFT, in_blocks

RATE = 11_000
"""Hz; the short frames are brought to this rate by an inverse transform of their own length."""
RESAMPLED = SHORT * RATE // 16_000
BINS = RESAMPLED // 2
ORDER = 11
LOWEST, HIGHEST = 50.0, 5450.0
FORMANTS = 3


@cache
def resampling() -> tuple[np.ndarray, np.ndarray]:
    """Return the cosines and sines ``(110, 220, 1)`` that turn the spectrum of a frame at 16 kHz into one at 11 kHz."""
    angle = 2 * np.pi * np.outer(np.arange(BINS), np.arange(RESAMPLED))[:, :, None] / (SHORT_FFT * RATE / 16_000)
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def resample(spectrum: np.ndarray) -> np.ndarray:
    """Return the short frames of ``spectrum (T, 257)`` at 11 kHz, ``(220, T)`` in single precision.

    The reference has centred the frame among 512 points, keeps the transform's bins below 220 / 2 and returns the first
    220 of 352 points. So what lies above 3.4 kHz and the last quarter of the frame are lost; that is part of what its
    formants are, and kept, like the double weight of the constant part and the order of summation.
    """
    bins = spectrum[:, :BINS].T
    resampled = np.repeat(bins[:1].real, RESAMPLED, 0)
    product = np.empty_like(resampled)
    for cos, sin, real, imag in zip(*resampling(), bins.real.copy(), bins.imag.copy(), strict=True):
        if sin.any():
            resampled += np.multiply(cos, real, out=product)
            resampled += np.multiply(sin, imag, out=product)
    return resampled / np.float32(SHORT_FFT // 2)


def predictors(spectrum: np.ndarray) -> np.ndarray:
    """Return prediction polynomials ``(11, T)`` for ``spectrum (T, 257)``, without their leading one (autocorrelation).

    In single precision throughout, as everything up to here: the equations are so close to singular that a more exact
    answer would be a different one.
    """
    if len(spectrum) == 1:  # NumPy would add the samples of a single column in another order
        return predictors(np.repeat(spectrum, 2, 0))[:, :1]
    resampled = resample(spectrum)
    lags = [(resampled[lag:] * resampled[: RESAMPLED - lag]).sum(0) for lag in range(ORDER + 1)]
    polynomial = np.zeros((ORDER, len(spectrum)), np.float32)
    error = np.where(lags[0] > 0, lags[0], np.float32(1))
    for order in range(ORDER):
        residual = lags[order + 1].copy()
        for known in range(order):
            residual += polynomial[known] * lags[order - known]
        polynomial[order] = reflection = (np.float32(-1) / error) * residual
        polynomial[:order] += reflection * polynomial[:order][::-1].copy()
        error = error * (1 - reflection * reflection)
    return polynomial


def formants(spectrum: np.ndarray) -> np.ndarray:
    """Return ``(T, 6)``: frequency and bandwidth (Hz) of the three lowest formants of ``spectrum (T, 257)``.

    Zero where a frame has fewer.
    """
    return in_blocks(_formants, spectrum)


def _formants(spectrum: np.ndarray) -> np.ndarray:
    companion = np.zeros((len(spectrum), ORDER, ORDER))
    companion[:, np.arange(1, ORDER), np.arange(ORDER - 1)] = 1
    companion[:, 0, :] = predictors(spectrum).T
    roots = np.linalg.eigvals(companion)
    with np.errstate(divide="ignore"):
        hertz = np.angle(roots) * RATE / (2 * np.pi)
        bandwidth = np.abs(np.log(np.abs(roots))) * RATE / np.pi
    hertz = np.where((hertz >= LOWEST) & (hertz <= HIGHEST), hertz, np.inf)
    order = np.argsort(hertz, axis=1)[:, :FORMANTS]
    hertz, bandwidth = np.take_along_axis(hertz, order, 1), np.take_along_axis(bandwidth, order, 1)
    found = np.isfinite(hertz)
    return np.stack([np.where(found, hertz, 0), np.where(found, bandwidth, 0)], 2).reshape(len(spectrum), 2 * FORMANTS)
