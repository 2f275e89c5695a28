"""Which labels a silence matches, as Alertmanager decides it."""

from __future__ import annotations

import time

import pytest

from gpuheal_responder.core.alert import Matcher, Silence
from gpuheal_responder.core.silence import silence_matches

LABELS = {"fault": "gpu-fell-off-bus", "node": "n1", "severity": "critical"}


def by(*matchers: Matcher) -> bool:
    """Whether a silence of these matchers matches our labels."""
    return silence_matches(Silence(id="s", created_by="ann", comment="", matchers=matchers), LABELS)


@pytest.mark.parametrize(
    ("matcher", "matches"),
    [
        (Matcher(name="node", value="n1"), True),
        (Matcher(name="node", value="n"), False),
        (Matcher(name="node", value="n1", is_equal=False), False),
        (Matcher(name="node", value="n2", is_equal=False), True),
        (Matcher(name="fault", value=".+", is_regex=True), True),
        (Matcher(name="fault", value="gpu", is_regex=True), False),
        (Matcher(name="fault", value="x|gpu-.*", is_regex=True), True),
        (Matcher(name="fault", value="gpu-.*", is_regex=True, is_equal=False), False),
        (Matcher(name="fault", value="net-.*", is_regex=True, is_equal=False), True),
        (Matcher(name="rack", value=""), True),
        (Matcher(name="rack", value="", is_equal=False), False),
        (Matcher(name="rack", value=".*", is_regex=True), True),
        (Matcher(name="rack", value=".+", is_regex=True), False),
        (Matcher(name="rack", value=".+", is_regex=True, is_equal=False), True),
        (Matcher(name="node", value="N1"), False),
        (Matcher(name="node", value="(?i)N1", is_regex=True), True),
        (Matcher(name="node", value=r"\pL\d", is_regex=True), True),
    ],
)
def test_one_matcher(matcher: Matcher, matches: bool) -> None:
    """Values are compared whole, expressions are anchored at both ends, a missing label is empty."""
    assert by(matcher) is matches


def test_all_matchers_have_to_agree() -> None:
    """One that does not is enough to miss; a silence whose matchers nobody tells stops rather too much."""
    yes, no = Matcher(name="node", value="n1"), Matcher(name="node", value="n2")
    assert by(yes, Matcher(name="fault", value=".+", is_regex=True))
    assert not by(yes, no)
    assert by()


def test_an_expression_that_cannot_be_read_stops_too_much_rather_than_too_little() -> None:
    """It agrees with everything, equal or not; the other matchers still have their say."""
    for equal in (True, False):
        odd = Matcher(name="node", value="(?=n1)", is_regex=True, is_equal=equal)
        assert by(odd)
        assert not by(odd, Matcher(name="fault", value="other"))


def test_no_expression_takes_long() -> None:
    """RE2 reads each sign once: what makes a backtracking engine try for years is answered at once."""
    silence = Silence(
        id="s", created_by="", comment="", matchers=(Matcher(name="node", value="(a+)+b", is_regex=True),)
    )
    began = time.process_time()
    assert not silence_matches(silence, {"node": "a" * 4096})
    assert time.process_time() - began < 0.5


def test_half_a_surrogate_pair_is_no_crash() -> None:
    """JSON can say it and UTF-8 can't: in a label it is some sign, in an expression it can't be read."""
    assert not silence_matches(
        Silence(id="s", created_by="", comment="", matchers=(Matcher(name="node", value="n.", is_regex=True),)),
        {"node": "\udfff"},
    )
    assert by(Matcher(name="node", value="\ud800", is_regex=True))
