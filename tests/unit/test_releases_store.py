"""Manifests on disk: what was put there is there, what is pinned says so, what is forgotten is gone."""

import asyncio
from pathlib import Path

from agent.store.database import Database
from agent.store.releases import Kept, Releases
from tests.fakes.releases import release_of


def test_manifests_are_kept_pinned_and_forgotten(tmp_path: Path) -> None:
    """By reference, the oldest first; the same reference again takes the place of the first."""

    async def test() -> None:
        database = Database(tmp_path)
        releases = Releases(database)
        one, two, again = release_of(version="1"), release_of(version="2"), release_of(version="1", license="BSD")
        for release in (one, two, again):
            await releases.put(release)
        assert releases.all() == [Kept(again, pinned=False), Kept(two, pinned=False)]
        assert await releases.pin("m@2", pinned=True)
        assert not await releases.pin("m@3", pinned=True)
        assert releases.all()[1] == Kept(two, pinned=True)
        await releases.forget(["m@1", "m@3"])
        assert (releases.find("m@1"), releases.find("m@2")) == (None, two)
        database.close()

    asyncio.run(test())
