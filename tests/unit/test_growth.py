"""How many streams decode together."""

from agent.engine.growth import START_STREAMS, Growth


def sized(growth: Growth, speeds: dict[int, float]) -> list[int]:
    """The numbers of streams it goes through when each number has this speed."""
    seen = [growth.num_streams]
    growth.note(speeds[growth.num_streams])
    while growth.is_worth_it:
        seen.append(growth.next())
        growth.note(speeds[growth.num_streams])
    return seen


def test_it_doubles_up_to_the_limit_while_that_is_faster() -> None:
    """A limit that is no power of two is reached, too."""
    assert sized(Growth(16), {4: 100, 8: 150, 16: 170}) == [4, 8, 16]
    assert sized(Growth(12), {4: 100, 8: 150, 12: 160}) == [4, 8, 12]


def test_it_ends_where_more_streams_bring_nothing() -> None:
    """Eight were no faster than four, so there are no sixteen."""
    assert sized(Growth(32), {4: 100, 8: 99, 16: 500}) == [4, 8]


def test_it_starts_small_and_within_the_limit() -> None:
    """One request at a time needs no memory for sixteen."""
    assert Growth(32).num_streams == START_STREAMS
    assert Growth(1).num_streams == 1
    assert not Growth(1).is_worth_it


def test_without_a_measurement_it_goes_on() -> None:
    """A burst may want more streams before all of them have decoded together once."""
    growth = Growth(16)
    assert growth.is_worth_it
    assert (growth.next(), growth.next()) == (8, 16)


def test_where_memory_ends_it_goes_back_for_good() -> None:
    """What could not be made is not tried again."""
    growth = Growth(16)
    growth.next()
    growth.stop()
    assert growth.num_streams == 4
    assert not growth.is_worth_it
    growth = Growth(12)
    growth.next()
    growth.next()
    growth.stop()
    assert growth.num_streams == 8


def test_one_odd_step_does_not_decide() -> None:
    """The speed is a moving mean."""
    growth = Growth(16)
    for _ in range(50):
        growth.note(100)
    growth.next()
    for _ in range(50):
        growth.note(130)
    growth.note(20)
    assert growth.is_worth_it
