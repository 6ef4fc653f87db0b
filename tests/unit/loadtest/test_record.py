import pytest

from loadtest.record import STRIDE, Record


def lines(start, stop):
    return [f'{{"n":{number}}}\n' for number in range(start, stop)]


def read(record, after):
    return b"".join(record.read(after)).decode().splitlines(keepends=True)


def test_what_is_written_is_in_the_file_at_once(tmp_path):
    record = Record(tmp_path / "deep" / "a.jsonl")
    record.write(lines(0, 3))
    assert (tmp_path / "deep" / "a.jsonl").read_text() == "".join(lines(0, 3))
    assert record.count == 3
    record.close()


@pytest.mark.parametrize("burst", [1, 7, STRIDE, 3 * STRIDE + 5])
def test_any_cursor_reads_from_its_line_on(tmp_path, burst):
    record = Record(tmp_path / "a.jsonl")
    total = 3 * STRIDE + 5
    for start in range(0, total, burst):
        record.write(lines(start, min(total, start + burst)))
    for after in (0, 1, STRIDE - 1, STRIDE, STRIDE + 1, 3 * STRIDE, total - 1, total, total + 9):
        assert read(record, after) == lines(after, total)
    record.close()


def test_it_goes_on_after_a_restart_and_takes_off_a_cut_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(lines(0, STRIDE + 2)) + '{"n":99')
    record = Record(path)
    assert record.count == STRIDE + 2
    record.write(lines(STRIDE + 2, STRIDE + 3))
    assert read(record, STRIDE + 1) == lines(STRIDE + 1, STRIDE + 3)
    record.close()
