"""ICC profiles by the definitions of their spaces (ICC.1:2022; for CMYK version 2).

Everything is relative to the white D50, to which the primaries are adapted by Bradford's matrix
(annex E).
"""

import struct

import numpy as np

D50 = np.array([0.9642, 1.0, 0.8249])
D65 = (0.3127, 0.3290)
SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))  # IEC 61966-2-1
DISPLAY_P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))  # SMPTE EG 432-1, with D65
_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)


def rgb_profile(primaries: tuple[tuple[float, float], ...]) -> bytes:
    """A display with these chromaticities, the white D65 and sRGB's curve."""
    columns = np.stack([_xyz(*place) for place in primaries], axis=1)
    scaled = columns * np.linalg.solve(columns, _xyz(*D65))
    gain = (_BRADFORD @ D50) / (_BRADFORD @ _xyz(*D65))
    to_d50 = np.linalg.inv(_BRADFORD) @ np.diag(gain) @ _BRADFORD @ scaled
    tags = {b"wtpt": _xyz_tag(D50)}
    for letter, column in zip((b"r", b"g", b"b"), to_d50.T, strict=True):
        tags |= {letter + b"XYZ": _xyz_tag(column), letter + b"TRC": _srgb_curve()}
    return _profile(b"mntr", b"RGB ", b"XYZ ", tags)


def grey_profile(gamma: float) -> bytes:
    curve = b"para\0\0\0\0" + struct.pack(">HH", 0, 0) + _fixed(gamma)
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"wtpt": _xyz_tag(D50), b"kTRC": curve})


def grey_srgb_profile(power: float) -> bytes:
    """Grey by sRGB's curve, but for its power, which is 2.4."""
    tags = {b"wtpt": _xyz_tag(D50), b"kTRC": _srgb_curve(power)}
    return _profile(b"mntr", b"GRAY", b"XYZ ", tags)


def _srgb_curve(power: float = 2.4) -> bytes:
    values = (power, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    return b"para\0\0\0\0" + struct.pack(">HH", 3, 0) + b"".join(map(_fixed, values))


def cmyk_profile() -> bytes:
    """A printer whose paper is white and whose inks are all the same grey, L* = 50 where one is
    full, and black where several are."""

    def lightness(inks: int) -> int:
        return {0: 255, 1: 128}.get(inks, 0)

    grid = b"".join(bytes([lightness(bin(corner).count("1")), 128, 128]) for corner in range(16))
    identity = b"".join(_fixed(value) for value in np.eye(3).ravel())
    ramp = bytes(range(256))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + ramp * 4 + grid + ramp * 3
    return _profile(
        b"prtr", b"CMYK", b"Lab ", {b"wtpt": _xyz_tag(D50), b"A2B0": table}, version=0x02400000
    )


def _profile(
    kind: bytes,
    space: bytes,
    connection: bytes,
    tags: dict[bytes, bytes],
    version: int = 0x04300000,
) -> bytes:
    table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content + b"\0" * (-len(content) % 4)
    head = struct.pack(">I4xI4s4s4s", start + len(body), version, kind, space, connection)
    head += struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    head += b"".join(map(_fixed, D50))
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def _xyz(x: float, y: float) -> np.ndarray:
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def _xyz_tag(values: np.ndarray) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(map(_fixed, values))
