"""What the server says to requests that it cannot honour: the status, the argument, what is allowed."""

import re
import socket

import pytest

from serving_tools import post


@pytest.mark.parametrize(
    ("change", "param", "message"),
    [
        ({"max_tokens": -1}, "max_tokens", r"max_tokens: .*greater than or equal to 1.*-1"),
        ({"max_tokens": 0}, "max_tokens", r"max_tokens"),
        ({"max_tokens": 10**30}, "max_tokens", r"max_tokens is 10{30}; allowed: 1 to 4096"),
        ({"max_tokens": "5"}, "max_tokens", r"valid integer.*'5'"),
        ({"max_tokens": True}, "max_tokens", r"valid integer"),
        ({"max_tokens": 255}, "prompt", r"prompt has 5 tokens and 255 more .* 260 together; allowed: .* 256"),
        ({"prompt": "x" * 300}, "prompt", r"300 tokens and 16 more"),
        ({"prompt": ""}, "prompt", r"prompt is empty"),
        ({"prompt": []}, "prompt", r"prompt"),
        ({"prompt": ["a", ""]}, "prompt", r"prompt is empty"),
        ({"prompt": [1, 10**6]}, "prompt", r"token 1000000; allowed: 0 to 122"),
        ({"prompt": [-1]}, "prompt", r"token -1"),
        ({"prompt": 7}, "prompt", r"prompt: .*string.*7"),
        ({"prompt": None}, "prompt", r"prompt"),
        ({"prompt": ["a"] * 129}, "prompt", r"at most 128"),
        ({"temperature": -0.1}, "temperature", r"greater than or equal to 0"),
        ({"temperature": 2.5}, "temperature", r"less than or equal to 2"),
        ({"top_p": 0}, "top_p", r"greater than 0"),
        ({"top_p": 1.1}, "top_p", r"less than or equal to 1"),
        ({"stop": ["a"] * 5}, "stop", r"at most 4"),
        ({"stop": ""}, "stop", r"at least 1 character"),
        ({"stream": "yes"}, "stream", r"valid boolean"),
        ({"seed": 1.5}, "seed", r"valid integer"),
        ({"n": 2}, "n", r"n is 2, which this server does not support; allowed: 1"),
        ({"logprobs": 3}, "logprobs", r"logprobs is 3"),
        ({"echo": True}, "echo", r"echo is True"),
        ({"presence_penalty": 0.5}, "presence_penalty", r"presence_penalty is 0.5"),
        ({"no_such": 1}, "no_such", r"no_such is not a known parameter"),
        ({"model": "gpt-4"}, "model", r"model is 'gpt-4'; allowed: tiny"),
    ],
)
def test_wrong_requests_name_the_argument(server, change, param, message):
    asked = {"model": "tiny", "prompt": "hello", **change}
    status, _, document = post(server, "/v1/completions", asked)
    assert status == (404 if param == "model" else 400)
    assert document["error"]["param"] == param
    assert document["error"]["type"] == "invalid_request_error"
    assert re.search(message, document["error"]["message"], re.DOTALL), document


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"\xff\xfe", "invalid_json"),
        (b'{"model": "tiny", "prompt": "\\ud800"}', "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (b"[]", "invalid_type"),
        (b'"text"', "invalid_type"),
        (b"{}", "missing_required_parameter"),
        (b'{"model": "tiny", "prompt": "x", "temperature": NaN}', "invalid_value"),
        (b'{"model": "tiny", "prompt": "x", "temperature": 1e999}', "invalid_value"),
    ],
)
def test_malformed_bodies_are_refused(server, body, code):
    status, _, document = post(server, "/v1/completions", body)
    assert (status, document["error"]["code"]) == (400, code), document


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "user"}],
        [{"role": "tool", "content": "x"}],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
        "hello",
    ],
)
def test_wrong_messages_are_refused(server, messages):
    status, _, document = post(server, "/v1/chat/completions", {"model": "tiny", "messages": messages})
    assert status == 400
    assert document["error"]["param"] == "messages"


def test_other_urls_and_methods_get_error_objects_too(server):
    assert post(server, "/v1/embeddings", {})[::2] == (
        404,
        {
            "error": {
                "message": "POST /v1/embeddings: Not Found",
                "type": "invalid_request_error",
                "param": None,
                "code": "unknown_url",
            }
        },
    )
    assert post(server, "/v1/completions", {}, method="PUT")[0] == 405


def test_too_large_a_body_is_refused_announced_or_not(server):
    assert post(server, "/v1/completions", b" " * (2**21))[0] == 413
    address = server.url.removeprefix("http://").split(":")
    with socket.create_connection((address[0], int(address[1])), timeout=20) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            for _ in range(40):
                connection.sendall(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
            connection.sendall(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert connection.recv(12).endswith(b" 413")
