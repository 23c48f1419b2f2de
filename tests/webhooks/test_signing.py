from __future__ import annotations

from hutch.secrets import Secret
from hutch.webhooks import signing


def test_the_specifications_own_example() -> None:
    """Of the Standard Webhooks specification, as its libraries test it."""
    key = Secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    made = signing.headers([key], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert made == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_each_key_signs_and_none_is_like_another() -> None:
    keys = [signing.new_secret(), signing.new_secret()]
    made = signing.headers(keys, "msg_1", 1, b"x")
    signatures = made["webhook-signature"].split(" ")
    assert signatures == [
        signing.headers([key], "msg_1", 1, b"x")["webhook-signature"] for key in keys
    ]
    assert len(set(signatures)) == 2
