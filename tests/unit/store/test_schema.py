"""What a migration's name and head say, and which code may work on which schema."""

import pytest

from sms.errors import ConfigError
from store.schema import Migration, Standing, files, judge, knows, migration_names


def test_names_and_heads_of_all_files_are_as_they_must_be():
    numbers = [one.number for one in files()]
    assert numbers == sorted(set(numbers))
    assert knows() == numbers[-1]
    assert migration_names() == [one.name for one in files() if not one.is_contracting]


@pytest.mark.parametrize(
    ("name", "sql", "wrong"),
    [
        ("0030_expand_more.sql", "", "is called NNNN_pre_what.sql"),
        ("30_pre_more.sql", "", "is called NNNN_pre_what.sql"),
        ("0030_pre_more.sql", "-- needs: 0021\n", "only there"),
        ("0030_post_less.sql", "DROP TABLE t", "stands in a contracting file"),
        ("0030_post_less.sql", "-- needs: 0030\n", "an earlier release"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(name, sql, wrong):
    with pytest.raises(ValueError, match=wrong):
        Migration.of(name, sql)


def test_a_contracting_file_says_what_code_must_know():
    one = Migration.of("0030_post_less.sql", "-- It goes.\n-- needs: 0021\nDROP TABLE t;")
    assert (one.number, one.is_contracting, one.needs) == (30, True, 21)


def test_code_of_before_may_work_beside_what_was_added():
    judge(Standing((), ("0030_post_less.sql",), ("0031_pre_more.sql",), floor=21), known=21)


def test_a_schema_without_all_that_we_need_is_refused_with_the_remedy():
    with pytest.raises(ConfigError, match=r"^run `smsgw migrate` of this version first"):
        judge(Standing(("0021_pre_versions.sql",), (), (), floor=0), known=21)


def test_a_schema_that_lacks_what_we_use_is_refused_before_anything_else():
    with pytest.raises(ConfigError, match=r"^install the version that the other nodes have"):
        judge(Standing(("0021_pre_versions.sql",), (), (), floor=22), known=21)
