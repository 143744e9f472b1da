"""What daemon and engine say to each other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.engine import frames

SAMPLING = frames.Sampling(temperature=0.5, top_p=0.9, top_k=40, seed=3, logit_bias={7: -1.5})
TO_ENGINE: list[frames.ToEngine] = [
    frames.Load(file="m.gguf", context_tokens=512, parallel=4, threads=2, flags={"use_mmap": True}),
    frames.Generate(
        job=1, turns=[("user", "grüß")], sampling=SAMPLING, max_tokens=5, stops=["x"], output_schema={"type": "object"},
        deadline_ms=10.5, resume=[1, 2],
    ),
    frames.Cancel(1, "deadline"),
    frames.Ping(),
]  # fmt: skip


@given(sizes=st.lists(st.integers(1, 40), min_size=1))
def test_frames_arrive_however_the_bytes_are_cut(sizes: list[int]) -> None:
    """Frames come out in order and equal, whatever portions the socket gives."""
    raw = b"".join(frames.encode(frame) for frame in TO_ENGINE)
    decoder, out, at = frames.Decoder(frames.ToEngine), [], 0
    while at < len(raw):
        for size in sizes:
            out += decoder.feed(raw[at : at + size])
            at += size
    assert out == TO_ENGINE


def test_a_length_that_cannot_be_is_refused() -> None:
    """A peer that does not speak the protocol cannot make the other side reserve gigabytes."""
    with pytest.raises(ValueError, match="a frame of"):
        frames.Decoder(frames.ToEngine).feed(b"\xff\xff\xff\xff")
