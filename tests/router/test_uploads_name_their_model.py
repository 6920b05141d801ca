"""Audio is uploaded as a form; which of several models it is for stands in one of its fields."""

from __future__ import annotations

import aiohttp
import pytest
from fake_backend import FakeBackend
from hypothesis import given
from hypothesis import strategies as st
from router_client import Start, table

from marlin.router.body_fields import model_in_form


async def test_an_upload_goes_to_the_pool_of_its_model_byte_for_byte(start: Start) -> None:
    async with FakeBackend() as chat, FakeBackend() as audio:
        document = table(chat.url, audio.url)
        (both,) = document["pools"]
        document["pools"] = [
            {"name": name, "modelName": name, "backends": [backend]}
            for name, backend in zip(("chat", "whisper"), both["backends"], strict=True)
        ]
        async with start(document) as client:
            form = aiohttp.FormData()
            form.add_field("file", bytes(range(256)) * 100, filename="a.wav", content_type="audio/wav")
            form.add_field("model", "whisper")
            async with client.session.post(f"{client.url}/v1/audio/transcriptions", data=form) as response:
                assert response.status == 200
            async with client.session.post(
                f"{client.url}/v1/audio/transcriptions",
                data=b"--x\r\n\r\n",
                headers={"Content-Type": "multipart/form-data; boundary=x"},
            ) as response:
                assert response.headers["x-marlin-error"] == "model_unreadable"
    assert chat.seen == []
    assert bytes(range(256)) * 100 in audio.seen[0].body


PART = b'--b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n'


@given(st.binary(max_size=400).filter(lambda data: b"--b" not in data), st.sampled_from(["m", "org/model:7b", "ä"]))
def test_the_field_is_found_whatever_is_uploaded_before_it(data: bytes, model: str) -> None:
    assert model_in_form(PART % (b"file", data) + PART % (b"model", model.encode()) + b"--b--\r\n") == model


@given(st.binary(max_size=400))
def test_any_bytes_give_a_model_or_none(data: bytes) -> None:
    assert model_in_form(data) is None or b"model" in data
    model_in_form(b"--b\r\n" + data)


@pytest.mark.parametrize("name", [b"remodel", b"model_name", b"Model"])
def test_another_field_is_not_taken_for_it(name: bytes) -> None:
    assert model_in_form(PART % (name, b"x") + b"--b--\r\n") is None
