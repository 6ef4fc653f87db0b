from adapters.window import SPENT_MAXIMUM, Window
from sms.model import MessageClass
from tests.support.smpp import some_submits


def timeout_of(submit):
    return 10.0 if submit.message.message_class is MessageClass.OTP else 60.0


def expire(window, now):
    return window.expire(now, timeout_of, shortest_s=10.0, slot_s=120.0)


def filled(*classes, capacity=8):
    window = Window(capacity)
    submits = [some_submits(1, message_class=cls)[0] for cls in classes]
    for sequence, submit in enumerate(submits, 1):
        submit.sent_at = 0.0
        window.open[sequence] = submit
    return window, submits


def test_each_class_has_its_own_time_out_and_a_submit_expires_once():
    window, (slow, otp) = filled(MessageClass.MARKETING, MessageClass.OTP)
    assert expire(window, 9.9) == []
    assert expire(window, 10.0) == [(2, otp)]
    assert expire(window, 11.0) == []
    assert expire(window, 60.0) == [(1, slow)]
    assert window.clear() == []


def test_the_walk_ends_at_the_first_young_submit():
    window, (old, young) = filled(MessageClass.OTP, MessageClass.OTP)
    young.sent_at = 5.0
    assert expire(window, 12.0) == [(1, old)]


def test_a_late_submit_keeps_its_slot_until_its_answer():
    window, (submit,) = filled(MessageClass.OTP, capacity=1)
    expire(window, 10.0)
    assert window.free() == 0
    assert window.take_late(1) is submit
    assert window.free() == 1
    assert window.take_late(1) is None


def test_a_slot_comes_back_after_its_time_and_the_answer_still_counts():
    window, (submit,) = filled(MessageClass.OTP, capacity=1)
    expire(window, 10.0)
    expire(window, 129.9)
    assert window.free() == 0
    expire(window, 130.0)
    assert window.free() == 1
    assert window.take_late(1) is submit


def test_memory_of_the_very_late_is_bounded():
    window, _ = filled(*[MessageClass.OTP] * (SPENT_MAXIMUM + 5), capacity=SPENT_MAXIMUM + 5)
    expire(window, 10.0)
    expire(window, 200.0)
    expire(window, 201.0)
    assert window.take_late(5) is None
    assert window.take_late(6) is not None


def test_the_close_returns_only_what_was_never_reported():
    window, (otp, slow) = filled(MessageClass.OTP, MessageClass.MARKETING)
    assert expire(window, 10.0) == [(1, otp)]
    assert window.clear() == [(2, slow)]
    assert window.taken() == 0


def test_a_late_submit_can_be_looked_at_without_taking_it():
    window = Window(4)
    [submit] = some_submits(1)
    submit.sent_at = 0.0
    window.open[1] = submit
    assert window.late(1) is None
    window.expire(10.0, lambda _: 5.0, shortest_s=5.0, slot_s=10.0)
    assert window.late(1) is submit
    window.expire(30.0, lambda _: 5.0, shortest_s=5.0, slot_s=10.0)  # its slot is given back
    assert window.late(1) is submit
    assert window.take_late(1) is submit
    assert window.late(1) is None
