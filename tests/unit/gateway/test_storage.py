"""How full a node's disks are: the fullest counts, by blocks or by inodes."""

import os
from pathlib import Path

import pytest

from gateway.storage import Storage, fullest, used_share


def told(blocks, free, files=0, files_free=0):
    return os.statvfs_result(
        (4096, 4096, blocks, free, free, files, files_free, files_free, 0, 255)
    )


@pytest.mark.parametrize(
    ("one", "share"),
    [
        (told(100, 25), 0.75),
        (told(100, 75, 1000, 50), 0.95),  # the inodes end first
        (told(100, 75, 1000, 900), 0.25),
        (told(0, 0), 0.0),  # a file system that does not say
    ],
)
def test_blocks_or_inodes(one, share):
    assert used_share(one) == pytest.approx(share)


def test_the_fullest_disk_counts_and_what_is_away_does_not():
    disks = {"data": told(100, 50), "journal": told(100, 4)}

    def look(place):
        if place.name not in disks:
            raise FileNotFoundError
        return disks[place.name]

    places = [Path("data"), Path("journal"), Path("away")]
    assert fullest(places, look) == pytest.approx(0.96)
    assert fullest([Path("away")], look) == 0.0


def test_a_disk_is_looked_at_once_a_second(tmp_path):
    now = [0.0]
    storage = Storage(tmp_path, lambda: now[0])
    first = storage.share()
    assert 0 < first < 1
    assert storage.share() == first
    now[0] = 1.0
    assert 0 < storage.share() < 1
