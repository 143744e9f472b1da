"""What goes to the broker when, and that it goes once."""

import asyncio
from pathlib import Path

from agent.post import Post
from agent.store.database import Database
from agent.store.outbox import Letter, Outbox
from contract.mqtt5 import Properties


def test_a_letter_that_was_stored_while_the_connection_came_is_sent_once(tmp_path: Path) -> None:
    """The new connection finds it in the outbox before its writer sends it."""

    async def scene() -> None:
        database = Database(tmp_path)
        outbox = Outbox(database, 2**20)
        sent: list[asyncio.Future[None]] = []

        def publish(_: str, __: bytes, ___: Properties) -> asyncio.Future[None]:
            sent.append(asyncio.get_running_loop().create_future())
            return sent[-1]

        post = Post(outbox, publish)
        letter = Letter("a", b"b")
        key = await outbox.add(letter)
        post.connected()
        post.send(key, letter)
        assert len(sent) == 1
        sent[0].set_result(None)
        await post.flush(5)
        assert outbox.waiting() == 0
        outbox.close()
        database.close()

    asyncio.run(scene())
