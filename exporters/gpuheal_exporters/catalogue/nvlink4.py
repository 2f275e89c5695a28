"""NVLink up to Hopper: the register words of Xid 74, judged bit by bit (NVIDIA Xid guide, NVLink error workflow).

The message carries seven words; words 1, 3, 4 and 5 are defined. Bits without a meaning here, and a message without
registers, are left to the catalogue row of Xid 74: reset the GPU.
"""

from __future__ import annotations

from gpuheal_exporters.catalogue.resolution import Resolution, worse

# What NVIDIA's workflow says about a class of bits, as our action and a text.
_CLASSES: dict[str, tuple[str, str]] = {
    "ignore": ("none", "not a fault on its own"),
    "sympathetic": ("alert", "side effect of an error elsewhere on the link"),
    "fabric": ("reboot", "side effect, but the whole fabric has to be reset"),
    "continue": ("alert", "corrected errors exceeded a threshold; work can continue"),
    "memory": ("gpu_reset", "ECC or parity error in the link logic"),
    "hardware": ("gpu_reset", "possible hardware fault: reseat or diagnose"),
    "signal": ("gpu_reset", "marginal signal integrity"),
    "repeat": ("gpu_reset", "report if it recurs"),
    "report": ("gpu_reset", "unexpected; report it"),
}
# (index of the word, class, bits); word 1 of the guide is index 0.
_BITS: tuple[tuple[int, str, tuple[int, ...]], ...] = (
    (0, "ignore", (0, 23, 30)),
    (0, "sympathetic", (1, 20)),
    (0, "memory", (4, 5)),
    (0, "hardware", (8, 9, 12, 16, 17, 24, 28)),
    (0, "signal", (21, 22)),
    (0, "repeat", (27, 29)),
    (2, "memory", (0, 1, 2, 6)),
    (2, "report", (13, 17, 18)),
    (2, "hardware", (16, 19)),
    (3, "sympathetic", (16, 17)),
    (3, "fabric", (18,)),
    (4, "memory", (18, 19, 21, 22, 24, 25, 27, 28)),
    (4, "continue", (20, 23, 26, 29)),
)
BIT_CLASS = {(word, bit): name for word, name, bits in _BITS for bit in bits}


def set_bits(regs: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return (word index, bit) of every bit set, in order."""
    return [(index, bit) for index, word in enumerate(regs) for bit in range(word.bit_length()) if word >> bit & 1]


def decode(regs: tuple[int, ...]) -> Resolution | None:
    """Return the strongest resolution of the bits set, or None if the words say nothing."""
    worst: Resolution | None = None
    for index, bit in set_bits(regs):
        name = BIT_CLASS.get((index, bit))
        action, text = _CLASSES[name] if name else ("gpu_reset", "has no published meaning")
        judged = Resolution(
            action=action,
            basis="registers",
            severity="non_fatal" if action in ("none", "alert") else "fatal",
            blames="peer" if name == "sympathetic" else "",
            detail=f"word {index + 1} bit {bit}: {text}",
        )
        worst = worse(worst, judged)
    return worst
