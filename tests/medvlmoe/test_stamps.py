from hypothesis import given
from hypothesis import strategies as st

from medvlmoe import stamps

WORDS = st.lists(st.sampled_from([*stamps.MEANINGS, "GOLD", "leaky", ""]))


@given(WORDS)
def test_stamps_travel_as_numbers_and_unknown_words_do_not(words):
    there_and_back = stamps.of_numbers({"train_loss": 1.0, **stamps.to_numbers(words), "stamp/GOLD": 1.0})
    assert there_and_back == stamps.in_order(words) == [stamp for stamp in stamps.MEANINGS if stamp in words]


def test_a_stamp_of_zero_is_none():
    assert stamps.of_numbers({"stamp/LEAKY": 0.0}) == []


def test_every_stamp_says_what_it_means():
    assert [line.partition(":")[0] for line in stamps.lines(reversed(stamps.MEANINGS))] == list(stamps.MEANINGS)
