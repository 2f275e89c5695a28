"""Xid 74: register words to a resolution."""

from __future__ import annotations

import pytest

from gpuheal_exporters import nvlink4


@pytest.mark.parametrize(
    ("regs", "action", "blames"),
    [
        ((0, 0, 0x10000, 0, 0, 0, 0), "gpu_reset", ""),  # word 3 bit 16: hardware, diagnose
        ((0x100000, 0, 0, 0, 0, 0, 0), "alert", "peer"),  # word 1 bit 20: sympathetic
        ((1 << 0 | 1 << 23 | 1 << 30, 0, 0, 0, 0, 0, 0), "none", ""),  # bits that carry no fault
        ((1 << 4, 0, 0, 0, 0, 0, 0), "gpu_reset", ""),  # ECC or parity
        ((1 << 21, 0, 0, 0, 0, 0, 0), "gpu_reset", ""),  # signal integrity
        ((0, 0, 0, 1 << 18, 0, 0, 0), "reboot", ""),  # sympathetic, but the fabric has to be reset
        ((0, 0, 0, 0, 1 << 20, 0, 0), "alert", ""),  # threshold of corrected errors, work goes on
        ((1 << 20, 0, 0, 0, 1 << 18, 0, 0), "gpu_reset", ""),  # several bits: the strongest decides
        ((0, 0, 0, 0, 0, 1, 0), "gpu_reset", ""),  # a word without a published meaning
    ],
)
def test_each_class_of_bits_has_its_resolution(regs: tuple[int, ...], action: str, blames: str) -> None:
    """The strongest class of all bits set decides; a bit without a meaning resets."""
    resolution = nvlink4.decode(regs)
    assert resolution is not None
    assert (resolution.action, resolution.blames, resolution.basis) == (action, blames, "registers")


@pytest.mark.parametrize("regs", [(), (0, 0, 0, 0, 0, 0, 0)])
def test_no_bit_says_nothing(regs: tuple[int, ...]) -> None:
    """Without a bit set the catalogue row of Xid 74 is left to decide."""
    assert nvlink4.decode(regs) is None


def test_set_bits_names_word_and_bit() -> None:
    """Words are counted from zero, bits from the least significant one."""
    assert nvlink4.set_bits((0x10000, 0, 0x3)) == [(0, 16), (2, 0), (2, 1)]
