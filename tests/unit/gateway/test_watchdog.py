"""Who is killed for being silent, by a clock that moves by hand."""

from gateway.watchdog import LEAST_FAILURES, START_PATIENCE_S, Silence


def fail(silence, *moments):
    for moment in moments:
        silence.failed(moment)


def test_a_worker_that_answers_now_and_then_lives():
    silence = Silence(15.0)
    for round_at in range(0, 600, 30):
        fail(silence, *[float(round_at + second) for second in range(14)])
        assert not silence.is_over(round_at + 14.0)
        silence.answered()
    assert silence.lasted_s(1e6) == 0.0


def test_a_worker_that_answered_and_is_silent_beyond_its_patience_is_killed():
    silence = Silence(15.0)
    silence.answered()
    fail(silence, 100.0, 102.0, 104.0, 110.0)
    assert not silence.is_over(115.0)
    assert silence.is_over(115.1)
    assert silence.lasted_s(115.1) > 15.0


def test_silence_counts_from_the_first_question_without_an_answer():
    silence = Silence(15.0)
    silence.answered()
    fail(silence, 100.0)
    silence.answered()
    fail(silence, 200.0, 201.0, 202.0)
    assert not silence.is_over(214.0)


def test_one_lost_question_before_a_pause_of_the_whole_machine_kills_nobody():
    silence = Silence(15.0)
    silence.answered()
    fail(silence, 100.0)  # then everything stands still for an hour
    assert not silence.is_over(3700.0)
    for _ in range(LEAST_FAILURES - 2):
        silence.failed(3700.0)
    assert not silence.is_over(3702.0)
    silence.answered()
    assert not silence.is_over(9999.0)


def test_a_new_process_has_time_to_start():
    silence = Silence(5.0)
    silence.begin()
    fail(silence, *[float(second) for second in range(int(START_PATIENCE_S))])
    assert not silence.is_over(START_PATIENCE_S)
    assert silence.is_over(START_PATIENCE_S + 1)


def test_a_long_patience_holds_for_the_start_too():
    silence = Silence(300.0)
    fail(silence, 0.0, 1.0, 2.0)
    assert not silence.is_over(START_PATIENCE_S + 1)
    assert silence.is_over(301.0)


def test_the_silence_of_a_dead_process_is_not_its_successor_s():
    silence = Silence(15.0)
    silence.answered()
    fail(silence, 0.0, 5.0, 10.0, 16.0)
    assert silence.is_over(20.0)
    silence.begin()
    assert not silence.is_over(20.0)
    fail(silence, 21.0, 22.0, 23.0)
    assert not silence.is_over(40.0)  # it has not answered yet: the patience of a start
