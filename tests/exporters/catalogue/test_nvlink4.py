"""Xid 74: register words to a resolution."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from gpuheal_exporters.catalogue import nvlink4

CATALOGUE = Path(__file__).parents[3] / "rules/gpuheal_rules/catalogue/data/xids.yaml"


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


# Our class for each class of bits in the rule catalogue.
CLASSES = {
    "ignore": "ignore",
    "sympathetic": "sympathetic",
    "sympathetic_but_fabric_reset_needed": "fabric",
    "ecc_or_parity": "memory",
    "ecc_or_parity_report_if_twice_on_link": "memory",
    "ecc_threshold_continue": "continue",
    "possible_hardware_reseat_or_diagnose": "hardware",
    "repeated_means_field_diagnostics": "hardware",
    "marginal_signal_integrity": "signal",
    "report_if_repeated": "repeat",
    "report": "report",
    "unexpected_report": "report",
}


def test_the_bits_are_those_of_the_rule_catalogue() -> None:
    """Every bit of every register word has the class the catalogue gives it, and no other bit has one."""
    document = yaml.load(CATALOGUE.read_text(), Loader=yaml.CSafeLoader)["xid74_registers"]
    theirs = {
        (int(register.removeprefix("register")) - 1, bit): CLASSES[name]
        for register, classes in document.items()
        for name, bits in classes.items()
        for bit in bits
    }
    assert theirs == nvlink4.BIT_CLASS


def test_the_detail_names_word_bit_and_meaning() -> None:
    """People read which bit decided; words are counted from one, as in NVIDIA's guide."""
    resolution = nvlink4.decode((0, 0, 0x10000, 0, 0, 0, 0))
    assert resolution is not None
    assert resolution.detail == "word 3 bit 16: possible hardware fault: reseat or diagnose"
