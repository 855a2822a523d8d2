"""Views of an image that leave its class as it is, for test-time augmentation: 8 dihedral ones, then mild colour."""

from __future__ import annotations

import numpy as np

DIHEDRAL = 8
GAIN = 0.06  # of a channel, at most, up or down: ours
LIFT = 8.0  # of all channels, in steps of 0 to 255, at most: ours

# Symmetry k of the square: k % 4 quarter turns, mirrored from 4 on; 7 is the transposed picture. The others from one that is there:
# (which, OpenCV's flip code, what it becomes). Turning rows round costs least, so four of them do that.
_FLIPS = ((0, 1, 4), (7, 1, 3), (0, 0, 6), (7, 0, 1), (4, 0, 2), (3, 0, 5))


def views(images: np.ndarray, count: int, *, seed: int = 0) -> np.ndarray:
    """``count`` views of each image: the image, its turns, their mirror images; past 8 the same with other colours.

    Args:
        images: uint8 [N, S, S, 3].
        seed: of the colours, which are the same for every image: a prediction does not depend on its neighbours.

    Returns:
        uint8 [N, count, S, S, 3]; the first of an image is the image itself.
    """
    out = np.empty((len(images), count, *images.shape[1:]), np.uint8)
    for image, seen in zip(images, out):
        seen[0] = image
        turn(seen[:DIHEDRAL])
    rng = np.random.default_rng(seed)
    for k in range(DIHEDRAL, count):
        gain, lift = rng.uniform(1 - GAIN, 1 + GAIN, 3), rng.uniform(-LIFT, LIFT)
        values = out[:, k % DIHEDRAL] * gain + lift
        out[:, k] = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return out


def turn(seen: np.ndarray) -> None:
    """Fill ``seen`` [K, S, S, 3], stored as one likes, with the symmetries of its first picture, K at most ``DIHEDRAL``."""
    import cv2  # writes a turned picture ten times as fast as NumPy's copy of three-byte pixels

    if len(seen) < DIHEDRAL:
        whole = np.empty((DIHEDRAL, *seen.shape[1:]), seen.dtype)
        whole[0] = seen[0]
        turn(whole)
        seen[1:] = whole[1 : len(seen)]
        return
    cv2.transpose(seen[0], dst=seen[7])
    for source, code, target in _FLIPS:
        cv2.flip(seen[source], code, dst=seen[target])
